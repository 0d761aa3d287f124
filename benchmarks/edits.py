"""What the disk alone takes for a file that is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def durable_write(path: Path, content: bytes) -> None:
    """Written beside, synced, renamed."""
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
