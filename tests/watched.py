"""The daemon under a detector: a call that blocks the event loop raises, and the daemon logs it as its fault.

Run as ``python -m tests.watched`` in place of ``python -m toolserver``.
"""

from __future__ import annotations

import importlib
import logging
import os

from blockbuster import BlockBuster

MAY_BLOCK = (
    # Before the first request, and after the last.
    ("toolserver/__main__.py", {"_run"}),
    # /proc is memory, not a disk: to read it takes microseconds.
    ("toolserver/system/tree.py", {"children_of_this_process", "_set"}),
    ("toolserver/system/priority.py", {"_lower_session"}),
    ("toolserver/system/exits.py", {"_own_peak"}),
    # Where what is open lies: the kernel knows its way without a look at any disk.
    ("toolserver/system/disk.py", {"_real_path_of"}),
    # A vfork of one to two milliseconds, measured; a thread would cost as much.
    ("subprocess.py", {"_execute_child"}),
    # The look that an exec takes as well.
    ("toolserver/system/spawn.py", {"found", "refuse_missing", "not_started"}),
    # Directories of the system's own disk, where the program is; and the one that the start goes to.
    ("toolserver/system/programs.py", {"known", "_stamp"}),
    ("toolserver/system/disk.py", {"directory"}),
)


def watch() -> None:
    """From here on a call that blocks a running event loop raises BlockingError."""
    detector = BlockBuster()
    detector.activate()
    for function in detector.functions.values():
        for file, names in MAY_BLOCK:
            function.can_block_in(file, names)


def main() -> None:
    """Load everything, then watch."""
    for name in ("toolserver.app", "uvloop", "encodings.idna"):
        importlib.import_module(name)
    watch()
    importlib.import_module("toolserver.__main__").main()
    # The detector replaces methods of C types, which an interpreter that tidies up does not always survive.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
