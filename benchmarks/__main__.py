"""``python -m benchmarks [RUNS]``: prints the tables, keeps the figures as JSON in benchmarks/results/."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.cases import all_cases, stamp
from benchmarks.measure import Figure
from orchestrator.toolchain import find_toolchain

RUNS = 200
RESULTS = Path(__file__).parent / "results"
_HEAD = "| case | candidate | median ms | p99 ms | to floor | runs |\n|---|---|---|---|---|---|"


def machine() -> dict[str, object]:
    """What the figures were made on; names of hosts left out."""
    packages = ("aiohttp", "uvloop", "msgspec", "isal", "websockets")
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


async def main(runs: int) -> None:
    """All quick cases, one after the other."""
    rg = str(find_toolchain(os.environ).rg)
    figures: list[Figure] = []
    print(json.dumps(machine()), "", _HEAD, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        async for found in all_cases(Path(scratch), rg, runs):
            figures += found
            print("\n".join(each.row() for each in found), flush=True)
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{stamp()}.json"
    told = {"machine": machine(), "figures": [each.data() for each in figures]}
    target.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"\nkept in {target}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))
