"""Makes saves: ``save_writer DATA_DIR COUNT`` prints each one's name once it is kept."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from orchestrator.paths import PathManager
from orchestrator.save_store import SaveStore
from tests.orchestrator.archives import pieces, save_of


async def main(data: Path, count: int) -> None:
    store = SaveStore(PathManager(data))
    for number in range(count):
        stored = await store.add("ann", "site", pieces(save_of(str(number))))
        print(stored.record.name, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
