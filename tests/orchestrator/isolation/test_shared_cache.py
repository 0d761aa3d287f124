"""The package cache that the sessions of one person share."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.isolation import identity


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories to a group")
def test_first_sessions_that_begin_at_once_all_find_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, chown = identity.group_of("ann"), os.chown

    def late(path: Path, user: int, group: int) -> None:
        time.sleep(0.005)  # only widens the gap in which another one looks
        chown(path, user, group)

    monkeypatch.setattr(os, "chown", late)
    for number in range(5):
        cache = tmp_path / str(number) / "ann"
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda cache: identity.share(cache, group), [cache] * 8))
        assert len(set(made)) == 1
        assert (cache.stat().st_gid, cache.stat().st_mode & 0o7777) == (group, 0o2770)
