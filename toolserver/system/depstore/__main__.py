"""Spare trees of a store, made by who owns it: a host for its shared one, which no tool server may write.

    python -m toolserver.system.depstore DIRECTORY KEY COUNT MAX_BYTES AFTER_SECONDS

A program of its own, because it unfolds for seconds and must not take them from the orchestrator. Nothing is
said when all is well; an end with 1 says why there are fewer than COUNT.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from toolserver.system.depstore.filling import Unfit
from toolserver.system.depstore.pack import CorruptPack
from toolserver.system.depstore.store import Layer, Store


def main(words: list[str]) -> int:
    """Make what is missing."""
    directory, key, count, max_bytes, after = words
    time.sleep(float(after))
    store = Store((Layer(Path(directory), shared=False),), int(max_bytes), int(count))
    try:
        if (spares := store.spares) is not None:
            spares.tidy()
            while spares.count(key) < int(count):
                store.make_spare(key, "")
    except (CorruptPack, Unfit, OSError) as error:
        print(f"no spare packages are made: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
