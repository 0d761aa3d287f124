"""Which package manager a directory wants, and what it is asked: pure functions of names and contents."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from protocol.errors import InvalidRequest

LOCK_FILES = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
YARN_SETTINGS = ".yarnrc.yml"
"""Read by Yarn from 2 on; the first one's is called .yarnrc."""
MANAGERS = ("npm", "pnpm", "yarn", "bun")
_FIELD = "packageManager"
_YARN_MAJOR = re.compile(r"yarn@(\d+)")
_REFUSING = "http://127.0.0.1:9"
"""Nobody listens there: the port of a service that discards what it is sent, which no system runs today."""
_OFFLINE = {"npm_config_offline": "true", "COREPACK_ENABLE_NETWORK": "0", "YARN_ENABLE_NETWORK": "0"}


def package_manager(package: Mapping[str, Any], names: Collection[str]) -> str:
    """Which package manager a directory wants: its lock file says, else ``packageManager``, else npm.

    Raises InvalidRequest where neither a lock file nor a name that is known says it.

    >>> package_manager({"packageManager": "pnpm@10.2.0+sha512.abc"}, ["package.json"])
    'pnpm'
    >>> package_manager({}, ["package.json", "yarn.lock"])
    'yarn'
    >>> package_manager({"packageManager": "cargo@1"}, ["package.json"])
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: packageManager in package.json is 'cargo@1'; it has to be one of \
npm, pnpm, yarn, bun, with or without a version such as npm@11.4.0
    """
    for lock, manager in LOCK_FILES.items():
        if lock in names:
            return manager
    said = package.get(_FIELD)
    return "npm" if said is None else known_manager(said, f"{_FIELD} in package.json")


def known_manager(said: object, where: str) -> str:
    """Its name without a version; raises InvalidRequest, by ``where``, for none that is known.

    >>> known_manager("bun@1.3.0", "it")
    'bun'
    """
    named = str(said).partition("@")[0]
    if not isinstance(said, str) or named not in MANAGERS:
        raise InvalidRequest(
            f"{where} is {said!r}; it has to be one of {', '.join(MANAGERS)}, "
            "with or without a version such as npm@11.4.0",
            field=_FIELD,
        )
    return named


def pinned_version(package: Mapping[str, Any], manager: str) -> str | None:
    """The version of ``manager`` that ``packageManager`` pins, without its hash.

    >>> pinned_version({"packageManager": "npm@10.2.0+sha512.abc"}, "npm")
    '10.2.0'
    >>> pinned_version({"packageManager": "pnpm@10"}, "npm"), pinned_version({"packageManager": "npm"}, "npm")
    (None, None)
    """
    named, _, version = str(package.get(_FIELD)).partition("@")
    return version.partition("+")[0] or None if named == manager else None


def is_modern_yarn(package: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether it is a Yarn from 2 on, which has other options: by the pinned version, else its settings file.

    >>> is_modern_yarn({"packageManager": "yarn@4.9.2+sha512.abc"}, []), is_modern_yarn({}, [YARN_SETTINGS])
    (True, True)
    >>> is_modern_yarn({"packageManager": "yarn@1.22.22"}, [YARN_SETTINGS])
    False
    """
    pinned = _YARN_MAJOR.match(str(package.get(_FIELD)))
    return int(pinned[1]) > 1 if pinned else YARN_SETTINGS in names


def install_commands(
    manager: str, names: Collection[str], offline: bool = False, modern_yarn: bool = False
) -> list[str]:
    """What to try, in order: the reproducible install where a lock file allows it, then the plain one.

    The first one prefers the cache, which makes a warm install independent of the network; the last one does
    not, because a cached list of versions may be too old for a new one.

    >>> install_commands("npm", ["package-lock.json"])
    ['npm ci --no-audit --no-fund --prefer-offline', 'npm install --no-audit --no-fund']
    >>> install_commands("yarn", ["yarn.lock"], modern_yarn=True)
    ['yarn install --immutable', 'yarn install --no-immutable']
    """
    locked = any(LOCK_FILES.get(name) == manager for name in names)
    first, last = (" --offline", " --offline") if offline else (" --prefer-offline", "")
    npm_quiet = "--no-audit --no-fund"
    commands = {
        "npm": [f"npm ci {npm_quiet}{first}", f"npm install {npm_quiet}{last}"],
        "pnpm": [f"pnpm install --frozen-lockfile{first}", f"pnpm install --no-frozen-lockfile{last}"],
        # Where CI is set, these two are strict unless told not to be.
        "yarn": ["yarn install --immutable", "yarn install --no-immutable"]
        if modern_yarn
        else [f"yarn install --frozen-lockfile{last}", f"yarn install{last}"],
        "bun": ["bun install --frozen-lockfile", "bun install"],
    }[manager]
    return commands if locked else commands[1:]


def offline_environment(manager: str | None) -> dict[str, str]:
    """What makes an install take packages from the cache only, beside its options.

    bun has no such switch: it is sent to a proxy that refuses, and what it has needs none.

    >>> sorted(offline_environment("bun").items() - offline_environment("npm").items())
    [('HTTPS_PROXY', 'http://127.0.0.1:9'), ('HTTP_PROXY', 'http://127.0.0.1:9')]
    """
    proxies = ("HTTP_PROXY", "HTTPS_PROXY") if manager == "bun" else ()
    return {**_OFFLINE, **dict.fromkeys(proxies, _REFUSING)}
