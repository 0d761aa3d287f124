"""A plan as a Dockerfile: the operator's directory in an image of its own, on top of a base image.

Pure, text out of a plan. The context is made here too, out of the very archive that would be sent in
otherwise, and goes to the engine's API. The ``docker build`` command is no way to do that: it drops what a
``.dockerignore`` in the operator's directory names, ``.git`` too often among it, and writes its own lines
into that file's copy (seen with Docker 28's client and the classic builder).

A directory that ``COPY`` has to make gets the owner, and mode 755; one that the base image has keeps its own.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec

from orchestrator.git_history import GIT
from orchestrator.plan import WorkspacePlan
from protocol.errors import ArchiveInvalid, InvalidRequest
from protocol.tar import END, Decoder, Event, Kind, Member, pack

CONTENT = "content"
"""The content's place in the context: beside the Dockerfile, and where a .dockerignore means nothing."""
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_MADE_MODE = "755"


def dockerfile(plan: WorkspacePlan, base_image: str, source: str = ".") -> str:
    """The Dockerfile's text. ``source`` is the content's place in the build context.

    A place of its own keeps the Dockerfile, which has to be in the context too, out of the content.

    >>> from pathlib import Path
    >>> plan = WorkspacePlan(True, Path("/src"), "/home/node", "/home/node/workspace", "/home/node/workspace")
    >>> print(dockerfile(plan, "workspace-core:latest"), end="")
    FROM workspace-core:latest
    COPY --chown=node:node . /home/node/workspace
    WORKDIR /home/node/workspace
    """
    if not _IMAGE.fullmatch(base_image):
        raise InvalidRequest(f"{base_image!r} is no image's name: give one as workspace-core:latest")
    lines = [f"FROM {base_image}", *_copies(plan, source), f"WORKDIR {plan.workdir}"]
    return "".join(f"{line}\n" for line in lines)


def build_context(plan: WorkspacePlan, base_image: str, archive: Iterable[bytes]) -> Iterator[bytes]:
    """A plain tar: the Dockerfile, and the members of ``archive`` (a tar.gz) below ``CONTENT``.

    Raises ArchiveInvalid.
    """
    text = dockerfile(plan, base_image, CONTENT).encode()
    first = (Member(name="Dockerfile", size=len(text)), iter([text]))
    return pack(chain([first], _moved(_plain(archive))))


def _plain(archive: Iterable[bytes]) -> Iterator[bytes]:
    gzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        for chunk in archive:
            yield gzip.decompress(chunk)
    except zlib.error as error:
        raise ArchiveInvalid(f"the archive cannot be unpacked: {error}") from error
    yield gzip.flush()


def _moved(tar: Iterable[bytes]) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    decoder = Decoder()
    events = chain.from_iterable(decoder.feed(chunk) for chunk in tar)
    for event in events:
        if isinstance(event, Member):
            yield _below(event), _content(events)
    decoder.finish()


def _content(events: Iterator[Event]) -> Iterator[memoryview]:
    for event in events:
        if event is END:
            return
        if isinstance(event, memoryview):
            yield event


def _below(member: Member) -> Member:
    """
    >>> _below(Member(name=".", kind=Kind.DIRECTORY)).name, _below(Member(name="./a b")).name
    ('content', 'content/a b')
    """
    if member.kind is Kind.HARD_LINK:
        member = msgspec.structs.replace(member, link=f"{CONTENT}/{member.link.removeprefix('./')}")
    name = member.name.removeprefix("./").rstrip("/")
    return msgspec.structs.replace(member, name=CONTENT if name in ("", ".") else f"{CONTENT}/{name}")


def _copies(plan: WorkspacePlan, source: str) -> list[str]:
    if plan.copies_contents:
        # With the history or without: the context holds what the plan takes.
        return [_copy(plan.owner, source, plan.guest_path), *_modes(plan)]
    if plan.copies_git:
        return [_copy(plan.owner, f"{source}/{GIT}", f"{plan.guest_path}/{GIT}"), *_modes(plan)]
    return []


def _copy(owner: str, source: str, target: str) -> str:
    """
    >>> _copy("node:node", ".", "/home/node/my projects")
    'COPY --chown=node:node [".", "/home/node/my projects"]'
    """
    if " " in source + target:
        places = json.dumps([source, target], ensure_ascii=False)
    else:
        places = f"{source} {target}"
    return f"COPY --chown={owner} {places}"


def _modes(plan: WorkspacePlan) -> list[str]:
    # Not ``COPY --chmod``: that would reach every file, and only one of the two builders knows it.
    if plan.mode == _MADE_MODE:
        return []
    return ["RUN " + json.dumps(["chmod", plan.mode, plan.guest_path], ensure_ascii=False)]
