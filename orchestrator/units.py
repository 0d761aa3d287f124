"""Numbers as a person reads them. Pure."""

from __future__ import annotations


def size_text(size: float) -> str:
    """A number of bytes.

    >>> size_text(512), size_text(20480), size_text(155 * 1024**2)
    ('512 B', '20.0 KiB', '155.0 MiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def seconds_text(seconds: float) -> str:
    """A duration.

    >>> seconds_text(0.0123), seconds_text(3.71), seconds_text(75)
    ('12 ms', '3.7 s', '1 min 15 s')
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def count_text(number: int, noun: str) -> str:
    """A number of things.

    >>> count_text(1, "file"), count_text(37, "file")
    ('1 file', '37 files')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
