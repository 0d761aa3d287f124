"""A floor: bare tool servers forked from a process that has imported all they need, and nothing around them.

    python -m benchmarks.prefork [NUMBER]

``python -m benchmarks.sessions`` has whole sessions whose tool servers are forked, each in its isolation.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

PATIENCE_SECONDS = 120.0
_WARM = """
import gc, json, os, signal, sys, time
import toolserver.app, uvloop
from toolserver.__main__ import main
gc.freeze()
number, place = int(sys.argv[1]), sys.argv[2]
running, begun = [], time.monotonic()
for index in range(number):
    there, here = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(there)
        os.dup2(here, 1)
        os.close(here)
        root = os.path.join(place, f"forked{index}")
        os.makedirs(root)
        main(["--port", "0", "--workspace-root", root])
        os._exit(0)
    os.close(here)
    assert b"listening" in os.read(there, 4096)
    running.append(pid)
seconds = time.monotonic() - begun
def pss(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
kib = sum(map(pss, running)) / number
for pid in running:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(json.dumps({"seconds": seconds, "mib": kib / 1024}))
"""


async def told(place: Path, number: int) -> dict[str, float]:
    """``seconds`` for ``number``, one after the other; ``mib`` of each, shared pages in parts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WARM, str(number), str(place)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    answer: dict[str, float] = json.loads(out)
    return answer


async def forked(place: Path, number: int) -> float:
    """Seconds for all."""
    return (await told(place, number))["seconds"]


async def main(number: int) -> None:
    """Beside as many that were started anew, in the same run."""
    from benchmarks.sessions import bare

    with tempfile.TemporaryDirectory(prefix="prefork-") as name:
        answer = await told(Path(name), number)
        anew = await bare(Path(name), number, 1)
    print(
        f"{number} tool servers in a row: forked {answer['seconds'] / number * 1000:.0f} ms each, "
        f"{answer['mib']:.1f} MiB each (shared pages in parts); anew {anew / number * 1000:.0f} ms each"
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
