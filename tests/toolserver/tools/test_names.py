"""Search in names: what is known of them stays true, however many look at once."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, cast

import pytest

from protocol.limits import Limits
from toolserver.system.disk import Disk
from toolserver.system.tree_index import Entry
from toolserver.system.watcher import Snapshot
from toolserver.tools import names
from toolserver.tools.names import Ignoring, Names

FILE = Entry(stat.S_IFREG | 0o644, 0, 1, 0, 0)


def test_a_search_beside_a_newer_one_spoils_nothing_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are on threads; here the newer one comes in the midst of the other's judging."""
    files = {".gitignore": FILE, "a": FILE, "x.log": FILE}
    older, newer = Snapshot(1, files), Snapshot(2, {**files, ".gitignore": FILE._replace(size=6)})
    (tmp_path / ".gitignore").touch()
    disk = Disk(tmp_path)
    found = Names(cast(Any, None), disk, Limits())
    judge = Ignoring.leaves_out

    def meanwhile(self: Ignoring, path: str, is_directory: bool = False) -> bool:
        monkeypatch.setattr(names.Ignoring, "leaves_out", judge)
        (tmp_path / ".gitignore").write_text("*.log\n")
        assert found._listed(newer, False, ".").names == ["a"]
        return judge(self, path, is_directory)

    monkeypatch.setattr(names.Ignoring, "leaves_out", meanwhile)
    found._listed(older, False, ".")
    assert found._listed(Snapshot(3, {**newer.files, "b": FILE}), False, ".").names == ["a", "b"]
    disk.close()
