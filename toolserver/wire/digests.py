"""``Content-Digest`` and ``Repr-Digest`` (RFC 9530): a body is held against what its sender says of it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from protocol.errors import ArchiveInvalid, InvalidRequest

HEADERS = ("Content-Digest", "Repr-Digest")
"""For a body that is sent whole and under no transfer coding of ours, both mean the same."""
_NAMES = {"sha-256": "sha256", "sha-512": "sha512"}
_MEMBER = re.compile(r"\s*([a-z0-9*_.-]+)=:([A-Za-z0-9+/=]*):\s*")


def wanted_digests(headers: Mapping[str, str]) -> dict[str, bytes]:
    """What a body is to have, by hashlib's names; empty when its sender does not say.

    Algorithms that are not known are passed over beside one that is. Raises InvalidRequest.

    >>> wanted_digests({"Content-Digest": "md5=:AA==:, sha-256=:" + "A" * 43 + "=:"}) == {"sha256": bytes(32)}
    True
    >>> wanted_digests({"Repr-Digest": "md5=:AA==:"})
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: Repr-Digest is 'sha-256=:BASE64:' or 'sha-512=:BASE64:', not 'md5=:AA==:'
    """
    wanted: dict[str, bytes] = {}
    for header in HEADERS:
        if (text := headers.get(header)) is not None:
            found = _parsed(text)
            if not found:
                raise InvalidRequest(
                    f"{header} is 'sha-256=:BASE64:' or 'sha-512=:BASE64:', not {text[:200]!r}", field=header
                )
            wanted |= found
    return wanted


def _parsed(text: str) -> dict[str, bytes]:
    found = {}
    for part in text.split(","):
        match = _MEMBER.fullmatch(part)
        if match is None:
            return {}
        name = _NAMES.get(match[1])
        if name is None:
            continue
        try:
            value = base64.b64decode(match[2], validate=True)
        except binascii.Error:
            return {}
        if len(value) != hashlib.new(name).digest_size:
            return {}
        found[name] = value
    return found


async def held_to(chunks: AsyncIterator[bytes], wanted: Mapping[str, bytes]) -> AsyncGenerator[bytes]:
    """The same chunks; raises ArchiveInvalid at their end when they are not what was said."""
    digests = {name: hashlib.new(name) for name in wanted}
    async for chunk in chunks:
        for digest in digests.values():
            digest.update(chunk)
        yield chunk
    for name, digest in digests.items():
        if not hmac.compare_digest(digest.digest(), wanted[name]):
            sent = f"{name}:{digest.hexdigest()}"
            raise ArchiveInvalid(
                f"the body has the digest {sent}, not {name}:{wanted[name].hex()} as its header says; "
                "nothing was changed",
                digest=sent,
            )
