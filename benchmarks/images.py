"""From one command to a page in a container: our one image and a warm store, or an image for each template.

    python -m benchmarks.images [TEMPLATE...] [--runs 3]

By turns, for each template: ``workspace up`` in a container of the core image, its packages in the shared
store; an image made for the template (the core image, its files, ``npm ci``) and its dev server run; and such
an image that was built before, run. The floor is the last one. It takes the core image that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.measure import Kind, figure
from orchestrator.templates import find_source, template_roots
from scripts.engine import docker, engine
from scripts.image import builder

TEMPLATES = ("vite-react-ts",)
CORE = "workspace-core:latest"
READY_SECONDS = 300.0
_LOOK_SECONDS = 0.02
_DOCKERFILE = f"""FROM {CORE}
COPY extra-ca.pem /etc/extra-ca.pem
ENV NODE_EXTRA_CA_CERTS=/etc/extra-ca.pem ASTRO_TELEMETRY_DISABLED=1
COPY --chown=node:node files/ /app/
RUN npm ci --no-audit --no-fund
ENTRYPOINT ["/tools/sealed/init", "-s", "--"]
CMD ["npm", "run", "dev", "--", "--host", "0.0.0.0", "--port", "4321"]
"""


@dataclass(frozen=True)
class Bench:
    """One template, and a data directory and an engine's network that nobody else has."""

    template: str
    scratch: Path
    environ: dict[str, str]

    @property
    def context(self) -> Path:
        """What an image of the template is built from."""
        return self.scratch / "context"

    @property
    def tag(self) -> str:
        """Of the image that is built before."""
        return f"{self.environ['WORKSPACE_DOCKER_NETWORK']}:{self.template}"

    def workspace(self, *words: str) -> list[str]:
        """The command line of the CLI."""
        return [sys.executable, "-P", "-m", "orchestrator", *words]


def prepare(bench: Bench) -> None:
    """The store warm, the image built."""
    source = find_source(bench.template, template_roots(Path.cwd()), Path.cwd())
    shutil.copytree(source.path, bench.context / "files", ignore=shutil.ignore_patterns("node_modules"))
    bundle = os.environ.get("EXTRA_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    (bench.context / "extra-ca.pem").write_bytes(Path(bundle).read_bytes() if bundle else b"")
    (bench.context / "Dockerfile").write_text(_DOCKERFILE)
    warm = bench.workspace("template", "warm", bench.template, "--backend", "docker")
    subprocess.run(warm, env=bench.environ, check=True, stdout=subprocess.DEVNULL)
    build(bench, bench.tag)


def ours(bench: Bench) -> float:
    """Seconds of ``workspace up``."""
    line = bench.workspace("up", bench.template, "--backend", "docker", "--port", "0", "--json")
    begun = time.monotonic()
    with subprocess.Popen(line, env=bench.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            answered(said["previewUrl"])
            return time.monotonic() - begun
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(READY_SECONDS)


def built(bench: Bench) -> float:
    """Seconds to build an image and run it."""
    tag = f"{bench.tag}-{secrets.token_hex(4)}"
    begun = time.monotonic()
    build(bench, tag)
    try:
        return time.monotonic() - begun + run(tag)
    finally:
        docker("image", "rm", "--force", tag)


def build(bench: Bench, tag: str) -> None:
    """Without layers of an earlier build, the core image's apart."""
    client, environ = builder(buildkit=False)
    words = [client, "build", "--quiet", "--no-cache", "--tag", tag, str(bench.context)]
    subprocess.run(words, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(tag: str) -> float:
    """Seconds until a container of the image shows its page."""
    begun = time.monotonic()
    container = docker("run", "--detach", "--publish", "127.0.0.1::4321", tag)
    try:
        answered(f"http://{docker('port', container, '4321/tcp').splitlines()[0]}/")
        return time.monotonic() - begun
    finally:
        docker("rm", "--force", "--volumes", container)


def answered(page: str) -> None:
    """Wait until the page is there."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(page, timeout=READY_SECONDS) as response:
            response.read()
            return
        time.sleep(_LOOK_SECONDS)
    raise TimeoutError(f"{page} has not answered in {READY_SECONDS:g} s")


@contextmanager
def bench_of(template: str) -> Iterator[Bench]:
    """All that it makes is gone afterwards."""
    network = f"benchmarks-{secrets.token_hex(4)}"
    environ = {**os.environ, "WORKSPACE_DOCKER_NETWORK": network, "WORKSPACE_DOCKER_IMAGE": CORE}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as after:
        environ |= {"DATA_DIR": f"{scratch}/data", "PYTHONPATH": str(Path.cwd())}
        bench = Bench(template, Path(scratch), environ)
        for words in (("network", "rm", network), ("image", "rm", "--force", bench.tag)):
            after.callback(subprocess.run, ["docker", *words], capture_output=True, check=False)
        down = bench.workspace("down", "--all", "--remove")
        after.callback(subprocess.run, down, env=environ, capture_output=True, check=False)
        prepare(bench)
        yield bench


def main(templates: list[str], runs: int) -> None:
    """A table."""
    print("| case | candidate | median ms | p99 ms | to floor | runs |\n|---|---|---|---|---|---|")
    for template in templates:
        with engine(), bench_of(template) as bench:
            acts: dict[str, Callable[[], float]] = {
                "image built before": partial(run, bench.tag),
                "core image, warm store": partial(ours, bench),
                "image built": partial(built, bench),
            }
            taken: dict[str, list[float]] = {name: [] for name in acts}
            for _ in range(runs):
                for name, act in acts.items():
                    taken[name].append(act() * 1000)
            floor = statistics.median(taken["image built before"])
            kinds = (Kind.FLOOR, Kind.OURS, Kind.PEER)
            for each, kind in zip(taken.items(), kinds, strict=True):
                print(figure(f"to a page in a container, {template}", *each, floor, kind).row())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("templates", nargs="*", default=list(TEMPLATES))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    main(options.templates, options.runs)
