"""What is a reason to start a dev server anew, of package.json and lock files: decided, not done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from protocol.templates import PACKAGE_FILE
from toolserver.tools.project import parse_package
from toolserver.tools.text import content_hash

_PACKAGES = (
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "overrides",
    "resolutions",
    "packageManager",
    "workspaces",
    "pnpm",
)
_SCRIPTS = ("dev", "start")

Basis = Mapping[str, str]
"""By what is compared, the digest of it; that of package.json's scripts ends with a ``#``."""


def basis(found: Mapping[str, bytes]) -> Basis:
    """What these files say, as far as it counts; raises InvalidRequest.

    >>> one, two = (basis({"package.json": text}) for text in (b'{"version": "1"}', b'{"version":"2"}'))
    >>> one == two, sorted(one)
    (True, ['package.json', 'package.json#'])
    """
    said = {name: content_hash(data) for name, data in found.items() if name != PACKAGE_FILE}
    if PACKAGE_FILE in found:
        package = parse_package(found[PACKAGE_FILE])
        scripts = package.get("scripts")
        started = scripts if isinstance(scripts, dict) else {}
        said[PACKAGE_FILE] = content_hash(_canonical({key: package.get(key) for key in _PACKAGES}))
        wanted = {"type": package.get("type"), **{key: started.get(key) for key in _SCRIPTS}}
        said[f"{PACKAGE_FILE}#"] = content_hash(_canonical(wanted))
    return said


def restarted(installed: Basis, now: Basis) -> Basis:
    """Packages as they were ``installed``, scripts as they are ``now``.

    >>> restarted({"package.json": "1", "package.json#": "1"}, {"package.json": "2", "package.json#": "2"})
    {'package.json': '1', 'package.json#': '2'}
    """
    packages = {name: said for name, said in installed.items() if not name.endswith("#")}
    return {**packages, **{name: said for name, said in now.items() if name.endswith("#")}}


def changed(before: Basis, now: Basis) -> list[str]:
    """What differs.

    >>> changed({"a": "1", "b": "1"}, {"a": "2", "c": "1"})
    ['a', 'b', 'c']
    """
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def sentence(names: list[str]) -> str:
    """
    >>> sentence(["package.json", "package.json#", "yarn.lock"])
    'package.json, yarn.lock changed'
    """
    return f"{', '.join(dict.fromkeys(name.rstrip('#') for name in names[:5]))} changed"


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
