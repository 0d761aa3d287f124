"""``python -m tests.walking``: a daemon on a kernel without ``openat2``, as the daemon sees it."""

from __future__ import annotations

import errno

from toolserver.__main__ import main
from toolserver.system import disk


def missing(*_: object) -> int:
    """What an old kernel says."""
    raise OSError(errno.ENOSYS, "Function not implemented")


if __name__ == "__main__":
    setattr(disk, "_openat2", missing)  # noqa: B010 - of another type, on purpose
    main()
