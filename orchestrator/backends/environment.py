"""What of the host's environment a local sandbox gets to see: an allowlist, pure.

The host's own secrets (cloud keys, tokens, agents' variables) are simply not on the list. Proxies and CA
files are, because without them no package is installed behind a company's proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator import package_managers
from orchestrator.isolation.sandbox import package_caches
from orchestrator.paths import SessionArea

SESSION = "WORKSPACE_SESSION_ID"
AREA = "WORKSPACE_SESSION_AREA"
"""Inherited by everything in the sandbox, so that each process of it is found again. The area, because an id
may be that of another data directory's session too."""

_ALLOWED = frozenset(
    (
        "lang",
        "language",
        "tz",
        "term",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "node_extra_ca_certs",
        "ssl_cert_file",
        "ssl_cert_dir",
        "requests_ca_bundle",
        "curl_ca_bundle",
        "git_ssl_cainfo",
        "pip_cert",
        "extra_ca_bundle",
        "npm_config_registry",
        "npm_config_cafile",
        "npm_config_proxy",
        "npm_config_https_proxy",
        "npm_config_noproxy",
        "npm_config_strict_ssl",
    )
)
"""In lower case: proxies and npm's settings are written both ways."""

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def sandbox_environment(
    host: Mapping[str, str], area: SessionArea, cache: Path, tools: Path | None, session: str
) -> dict[str, str]:
    """The whole environment of a sandbox's daemon, but for the daemon's own settings.

    >>> from pathlib import Path
    >>> area = SessionArea(Path("/d/.s"))
    >>> env = sandbox_environment({"AWS_SECRET": "x", "LC_ALL": "C"}, area, Path("/c"), Path("/t"), "s")
    >>> env["HOME"], env["LC_ALL"], env["PATH"].partition(":")[0], "AWS_SECRET" in env
    ('/d/.s/home', 'C', '/t', False)
    """
    return {
        **host_environment(host),
        "PATH": search_path(host.get("PATH", ""), tools),
        "HOME": str(area.home),
        "TMPDIR": str(area.temporary),
        **{name: str(path) for name, path in package_caches(cache).items()},
        **package_managers.environment(host),
        SESSION: session,
        AREA: str(area.directory),
    }


def host_environment(host: Mapping[str, str]) -> dict[str, str]:
    """What of the host's own environment is handed on as it is.

    >>> host_environment({"AWS_SECRET": "x", "LC_ALL": "C"})
    {'LC_ALL': 'C'}
    """
    return {name: value for name, value in host.items() if _is_allowed(name)}


def marker(session: str) -> str:
    """Of all sessions of that id, as it stands in /proc/PID/environ."""
    return f"{SESSION}={session}"


def area_marker(area: SessionArea) -> str:
    """Of the one session that this area is of.

    >>> area_marker(SessionArea(Path("/d/.s")))
    'WORKSPACE_SESSION_AREA=/d/.s'
    """
    return f"{AREA}={area.directory}"


def search_path(host_path: str, tools: Path | None) -> str:
    """The tools first, then the host's absolute directories: a relative one would be found in the workspace.

    >>> search_path("bin:/usr/bin::/bin", Path("/tools"))
    '/tools:/usr/bin:/bin:/tools/spare'
    """
    directories = [each for each in host_path.split(":") if each.startswith("/")] or _SYSTEM_PATH.split(":")
    if tools is not None:
        directories = [str(tools), *directories, str(tools / package_managers.DIRECTORY)]
    return ":".join(directories)


def _is_allowed(name: str) -> bool:
    return name.lower() in _ALLOWED or name.startswith("LC_")
