"""Whether a directory holds what no save does."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.restoring import changed_since
from tests.orchestrator.live import until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for path in ("index.html", "src/deep/a.js", "node_modules/x/y.js"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("before")
    return root


def later(root: Path) -> datetime:
    """An instant after all that was done to ``root`` so far, by the file system's own clock."""
    probe, last = root.parent / "probe", max(path.lstat().st_ctime for path in (root, *root.rglob("*")))

    def ticked() -> bool:
        probe.touch()
        return probe.stat().st_ctime > last + 0.05

    until(ticked)
    return datetime.fromtimestamp(last + 0.025, UTC)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file changed": lambda root: (root / "src/deep/a.js").write_text("after"),
    "a file came": lambda root: (root / "src/new.js").write_text("new"),
    "a file went": lambda root: (root / "src/deep/a.js").unlink(),
    "a file at the top went": lambda root: (root / "index.html").unlink(),
    "a directory came": lambda root: (root / "empty").mkdir(),
    "a link came": lambda root: (root / "src/link").symlink_to("deep"),
    "a mode changed": lambda root: (root / "index.html").chmod(0o755),
    "a file was moved": lambda root: (root / "index.html").rename(root / "src/index.html"),
    "a file changed and says that it is old": lambda root: os.utime(root / "index.html", (1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changed_after_the_save_is_noticed(root: Path, change: str) -> None:
    instant = later(root)
    assert not changed_since(root, instant)
    CHANGES[change](root)
    assert changed_since(root, instant)


def test_what_no_save_holds_does_not_count(root: Path) -> None:
    instant = later(root)
    (root / "node_modules/x/y.js").write_text("after")
    (root / "node_modules/new").mkdir()
    assert not changed_since(root, instant)


def test_without_a_save_anything_counts_and_nothing_does_not(root: Path, tmp_path: Path) -> None:
    assert changed_since(root, None)
    (tmp_path / "empty" / "node_modules").mkdir(parents=True)
    assert not changed_since(tmp_path / "empty", None)
    assert not changed_since(tmp_path / "missing", None)
    assert not changed_since(tmp_path / "missing", datetime.now(UTC) - timedelta(days=1))
