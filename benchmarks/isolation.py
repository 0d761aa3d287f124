"""What each tier of local isolation adds to a start: ``python -m benchmarks.isolation [RUNS]``, alternating.

What is started is /bin/true, so the figure is the launcher's, bubblewrap's and pasta's alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.directories import private_directory
from orchestrator.isolation.isolation import Isolation, Setting
from orchestrator.isolation.sandbox import Sandbox
from orchestrator.paths import PathManager
from protocol.errors import Unavailable

TIERS = (("none", "shared"), ("auto", "shared"), ("auto", "own"), ("bwrap", "shared"), ("bwrap", "own"))


def command(data: Path, wish: str, network: str) -> tuple[str, ...]:
    """What starts /bin/true in a fresh sandbox; raises Unavailable where the tier is not to be had."""
    paths = PathManager(data)
    environ = {**os.environ, "WORKSPACE_ISOLATION": wish, "WORKSPACE_NETWORK": network}
    chosen = Isolation.choose(Setting.from_env(environ), paths, environ, None, ())
    root, area = paths.workspace_dir("ann", "s"), paths.session_area("ann", "s")
    for directory in (root, *area.directories):
        private_directory(directory)
    sandbox = Sandbox("ann", root, area, paths.cache_dir("ann", "npm").parent, (0,))
    return chosen.command(chosen.settle(sandbox), ("/bin/true",))


def main(runs: int) -> None:
    """Print a line for each tier: milliseconds."""
    with tempfile.TemporaryDirectory(prefix="isolation-") as name:
        commands = {}
        for wish, network in TIERS:
            try:
                commands[f"{wish}, network {network}"] = command(Path(name, wish, network), wish, network)
            except Unavailable as error:
                print(f"{wish}, network {network}: {error.message}")
        Path(name).chmod(0o711)
        taken: dict[str, list[float]] = {tier: [] for tier in commands}
        for _ in range(runs):
            for tier, words in commands.items():
                began = time.perf_counter()
                subprocess.run(words, check=True)
                taken[tier].append((time.perf_counter() - began) * 1000)
        for tier, times in taken.items():
            print(f"{tier:24} median {statistics.median(times):6.1f} ms, least {min(times):6.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
