"""``python -m benchmarks [--full] [--only GROUP] [--no-peers]``: tables as they come, kept in results/."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.arena import Bench
from benchmarks.groups import ALONE, IN_ARENA, all_groups
from benchmarks.machine import machine
from benchmarks.measure import Kind
from benchmarks.peers.all import PEERS, gather
from benchmarks.report import HEAD, Report
from benchmarks.scale import FULL, QUICK
from benchmarks.targets import targets
from orchestrator.toolchain import find_toolchain

RESULTS = Path(__file__).parent / "results"


async def main(arguments: argparse.Namespace) -> int:
    """All groups, one after the other; 1 when something of ours could not be measured."""
    begun, tools = time.monotonic(), find_toolchain(os.environ)
    field = await gather(not arguments.no_peers)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as name:
        facts = machine(Path(name), str(tools.rg), str(tools.node))
        releases = {each.name: each.release for each in PEERS}
        report = Report(_name(arguments), facts, releases, field.absent)
        bench = Bench(Path(name), str(tools.rg), FULL if arguments.full else QUICK, field)
        print(HEAD, flush=True)
        async for done in all_groups(bench, arguments.full, frozenset(arguments.only), arguments.patience):
            report.groups[done.name] = done.figures
            report.seconds[done.name] = round(done.seconds, 1)
            print("\n".join(each.row() for each in done.figures), flush=True)
    print("\n| what | aim | this run | |\n|---|---|---|---|")
    print("\n".join(each.row() for each in targets(report.figures)))
    print(f"\n{time.monotonic() - begun:.0f} s; kept in {report.keep(arguments.results)}")
    return int(any(each.not_run and each.kind is Kind.OURS for each in report.figures))


def _name(arguments: argparse.Namespace) -> str:
    """Some groups alone are never written over the figures of all."""
    scale = "full" if arguments.full else "quick"
    return f"part-{scale}" if arguments.only else scale


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    names = [each.name for each in (*IN_ARENA, *ALONE)]
    parser.add_argument("--full", action="store_true", help="every case; about a quarter of an hour")
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="GROUP")
    parser.add_argument("--no-peers", action="store_true", help="install and start no peer")
    parser.add_argument("--patience", type=float, default=1.0, help="times the bounds, on a busy machine")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--scratch", type=Path, help="where the files of the run are: its file system is measured"
    )
    return parser.parse_args()


if __name__ == "__main__":
    # As Ctrl-C: peers and trees are put away before the end.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(asyncio.run(main(_arguments())))
