"""Tokens made by hand, right and wrong ones: these tests share no code with who makes them or reads them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Json = dict[str, Any]
ALL = ["read", "write", "command", "archive", "dev", "admin"]


def part(data: bytes | Json) -> str:
    """One of a token's three parts."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Signer:
    """An orchestrator's key."""

    def __init__(self, session: str = "s1") -> None:
        self.session = session
        self._key = Ed25519PrivateKey.generate()
        self.raw = self._key.public_key().public_bytes_raw()
        self.public = base64.b64encode(self.raw).decode()
        self.id = hashlib.sha256(self.raw).hexdigest()[:16]
        self._made = 0

    def claims(self, *scopes: str, seconds: Any = 600, **more: Any) -> Json:
        """What a token says; of ``more``, None leaves out."""
        now = int(time.time())
        self._made += 1
        said = {
            "sid": self.session,
            "sub": "ann",
            "jti": f"t{self._made}",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": int(now + seconds),
            "scopes": list(scopes),
            **more,
        }
        return {name: value for name, value in said.items() if value is not None}

    def token(self, *scopes: str, seconds: float = 600, **more: Any) -> str:
        """A session token."""
        return self.signed(self.claims(*scopes, seconds=seconds, **more))

    def ticket(self, method: str, path: str, seconds: float = 60, **more: Any) -> str:
        """What makes an address one that is signed."""
        said = {"method": method, "path": path, **more}
        return self.signed(self.claims(seconds=seconds, scopes=None, **said), typ="workspace-ticket+jwt")

    def signed(self, payload: Json | bytes, **header: Any) -> str:
        """Any payload, under a header of which any member may be another one, or None for none."""
        said = {"alg": "EdDSA", "kid": self.id, "typ": "workspace-session+jwt", **header}
        return self.signed_under({name: value for name, value in said.items() if value is not None}, payload)

    def signed_under(self, header: Json | bytes, payload: Json | bytes) -> str:
        """Any header."""
        body = f"{part(header)}.{part(payload)}"
        return f"{body}.{part(self._key.sign(body.encode()))}"

    def by_secret(self, payload: Json) -> str:
        """As if the public key were a shared secret."""
        body = f"{part({'alg': 'HS256', 'kid': self.id, 'typ': 'workspace-session+jwt'})}.{part(payload)}"
        return f"{body}.{part(hmac.digest(self.raw, body.encode(), 'sha256'))}"
