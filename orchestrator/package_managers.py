"""pnpm, yarn and bun for workspaces of a host that has none of its own: the directory last on their PATH.

pnpm and yarn are Corepack's, which comes with Node: the version that package.json pins, held to its hash,
else the one that this Corepack knows by hash. bun is the npm package of that name. Each is fetched by the
workspace that first needs it, into a cache of its owner; nothing is fetched here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

DIRECTORY = "spare"
"""Below the tools: what the host itself has on its PATH comes first."""

_COREPACK = ("pnpm", "pnpx", "yarn", "yarnpkg")
_BUN = """\
#!/bin/sh
# The version that package.json pins, else the newest: as the npm package, kept in npm's cache.
wanted=$(node -p '/^bun@[^+]+/.exec(require("./package.json").packageManager)[0]' 2>/dev/null) || wanted=bun
exec npm exec --yes --prefer-offline --no-update-notifier --package="$wanted" -- bun "$@"
"""

_ENVIRONMENT = {
    "COREPACK_ENABLE_DOWNLOAD_PROMPT": "0",
    # Where none is pinned: a version known by hash, and the same one tomorrow. package.json stays as it is.
    "COREPACK_DEFAULT_TO_LATEST": "0",
    "COREPACK_ENABLE_AUTO_PIN": "0",
}
_REGISTRIES = ("COREPACK_NPM_REGISTRY", "npm_config_registry", "NPM_CONFIG_REGISTRY")


def environment(host: Mapping[str, str]) -> dict[str, str]:
    """Corepack's settings: it does not ask npm for its registry, and one that signs otherwise has keys.

    >>> environment({"npm_config_registry": "https://npm.example.org/"})["COREPACK_NPM_REGISTRY"]
    'https://npm.example.org'
    >>> "COREPACK_NPM_REGISTRY" in environment({})
    False
    """
    registry = next((host[name] for name in _REGISTRIES if host.get(name)), None)
    keys = host.get("COREPACK_INTEGRITY_KEYS")
    return {
        **_ENVIRONMENT,
        **({"COREPACK_NPM_REGISTRY": registry.rstrip("/")} if registry else {}),
        **({"COREPACK_INTEGRITY_KEYS": keys} if keys is not None else {}),
    }


def make(directory: Path, corepack: Path | None) -> None:
    """Fill ``directory``, which others than its owner may search whatever the umask.

    Without a Corepack there is no pnpm and no yarn: Node 25 came without.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    beside = corepack.resolve().parent if corepack else None
    for name in _COREPACK:
        target = beside / f"{name}.js" if beside else None
        if target and target.is_file():
            link(directory / name, target)
        else:
            (directory / name).unlink(missing_ok=True)
    _write(directory / "bun", _BUN)


def link(path: Path, target: Path) -> None:
    """Make ``path`` a link to ``target``, in one step."""
    if path.is_symlink() and path.readlink() == target:
        return
    # Made beside it and renamed over it: another workspace may be starting through this very link.
    fresh = _beside(path)
    fresh.symlink_to(target)
    fresh.replace(path)


def _write(path: Path, program: str) -> None:
    if path.is_file() and path.read_text() == program:
        return
    fresh = _beside(path)
    fresh.write_text(program)
    fresh.chmod(0o755)
    fresh.replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")
