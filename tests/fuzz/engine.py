"""The process that fuzzes one target: ``python -m tests.fuzz.engine TARGET [libFuzzer's options]``.

Our own modules are made countable as they are imported, so that the engine sees which input reaches new code.
"""

from __future__ import annotations

import os
import sys

import atheris

FAULT = "WORKSPACE_FUZZ_FAULT"
"""Set, it puts a fault in the target's place: so a test sees that faults are found."""


def faulty(data: bytes) -> None:
    """Fails for what begins with an F."""
    if data.startswith(b"F"):
        raise AssertionError("a fault on purpose")


def main() -> None:
    """Fuzz until the options say to stop; never returns."""
    with atheris.instrument_imports(include=["protocol", "toolserver"]):
        from tests.fuzz.targets import EVERYTHING_AT_ONCE, TARGETS
    target = TARGETS.get(sys.argv[1], EVERYTHING_AT_ONCE)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], faulty if os.environ.get(FAULT) else target.fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
