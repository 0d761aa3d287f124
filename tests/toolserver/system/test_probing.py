"""By what means packages get into a workspace: found out once, and told where it then turns out otherwise."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder import tree_of
from toolserver.system import large_files
from toolserver.system.copying import held
from toolserver.system.depstore import probing, unfolding
from toolserver.system.depstore.placing import Placing
from toolserver.system.depstore.probing import Means, Probe
from toolserver.system.depstore.spares import NAME, Spares
from toolserver.system.depstore.store import Layer, Store

KEY = "a" * 64


class Place:
    """A workspace of packages, and a store that has them."""

    def __init__(self, root: Path, state: Path, store: Path) -> None:
        self.root, self.state = root, state
        self.store = Store((Layer(store, shared=False),), max_bytes=1 << 30)
        for directory in (root, state):
            directory.mkdir(parents=True)
        (root / "node_modules/a").mkdir(parents=True)
        (root / "node_modules/a/index.js").write_text("a")
        (root / "node_modules/a/large.node").write_bytes(os.urandom(100_000))
        with held(os.open(root / "node_modules", os.O_RDONLY)) as tree:
            self.store.fill(KEY, tree, str(root), time.time_ns())
        self.wanted = tree_of(root)
        self.fd = os.open(root, os.O_PATH)
        self.probe = Probe(self.fd, state)
        self.told: list[str] = []

    def look(self) -> list[Means]:
        return self.probe.look(self.store, Spares(self.state / NAME))["own"]

    def take(self) -> Means:
        placing = Placing(self.fd, str(self.root), self.state, self.probe)
        spares = [self.store.spares] if self.store.spares else []
        for found in self.store.find(KEY, str(self.root), []):
            means = placing.place(found, spares, self.told)
            assert tree_of(self.root) == self.wanted
            assert list(self.state.iterdir()) == []
            return means
        raise AssertionError("the pack is gone")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory of another file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        if Path(name).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one file system only")
        yield Path(name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """All on one file system."""
    made = Place(tmp_path / "root", tmp_path / "state", tmp_path / "store")
    yield made
    os.close(made.fd)


def test_packages_are_placed_by_the_first_means_that_the_probe_names(place: Place) -> None:
    place.store.make_spare(KEY, "/elsewhere")
    means = place.look()
    assert (means[0], means[-1]) == (Means.SPARE, Means.COPY)
    assert [place.take(), place.take()] == [means[0], means[1]]
    assert place.told == []
    spares = place.store.spares
    assert spares is not None
    assert list(spares.directory.iterdir()) == []


def test_a_spare_on_another_file_system_is_left_there_and_nothing_is_said(
    tmp_path: Path, elsewhere: Path
) -> None:
    place = Place(tmp_path / "root", tmp_path / "state", elsewhere / "store")
    place.store.make_spare(KEY, "/elsewhere")
    assert place.look() == [Means.COPY]
    assert place.take() is Means.COPY
    assert place.told == []
    assert place.store.spares is not None
    assert place.store.spares.count(KEY) == 1


def test_a_state_directory_on_another_file_system_is_found_out_by_a_trial(
    tmp_path: Path, elsewhere: Path
) -> None:
    place = Place(tmp_path / "root", elsewhere / "state", tmp_path / "store")
    assert Means.SPARE not in place.look()
    assert place.take() in {Means.COPY, Means.SHARED}
    assert place.told == []


def test_a_rename_that_fails_after_all_is_told_and_the_tree_is_made_in_the_root(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "root", elsewhere / "state", elsewhere / "store")
    with monkeypatch.context() as patched:
        patched.setattr(probing, "can_rename", lambda *_: True)
        assert place.probe.beside()
    assert place.take() is Means.COPY
    assert place.told == ["packages cannot be moved from the state directory after all; they are made anew"]
    assert place.take() is Means.COPY
    assert len(place.told) == 1


def test_a_spare_that_cannot_be_moved_after_all_is_told_and_copied_instead(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "root", tmp_path / "state", elsewhere / "store")
    place.store.make_spare(KEY, "/elsewhere")
    with monkeypatch.context() as patched:
        patched.setattr(probing, "can_rename", lambda *_: True)
        assert place.look()[0] is Means.SPARE
    assert [place.take(), place.take()] == [Means.COPY, Means.COPY]
    assert place.told == ["spare packages cannot be moved after all (Invalid cross-device link)"]


def test_blocks_that_cannot_be_shared_after_all_are_told_and_copied_instead(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(probing, "shares_blocks", lambda *_: True)
    monkeypatch.setattr(os, "copy_file_range", refused)
    assert place.look() == [Means.SHARED, Means.COPY]
    assert [place.take(), place.take()] == [Means.COPY, Means.COPY]
    assert place.told == ["its blocks cannot be shared after all (Operation not supported); it is copied"]


def test_what_could_not_be_tried_for_want_of_room_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    place.store.make_spare(KEY, "/elsewhere")
    with monkeypatch.context() as patched:
        patched.setattr(probing, "can_rename", full)
        assert place.look() == [Means.COPY]
    assert place.look()[0] is Means.SPARE


def test_a_disk_that_is_full_half_way_leaves_what_was_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place.look()
    monkeypatch.setattr(unfolding, "write_all", full)
    with pytest.raises(OSError, match="No space left"):
        place.take()
    assert tree_of(place.root) == place.wanted
    assert list(place.state.iterdir()) == []
    monkeypatch.setattr(unfolding, "write_all", large_files.write_all)
    assert place.take()


KILLED_AT_EACH_STEP = """
import itertools, os, sys
from pathlib import Path
from tests.builder import tree_of
from protocol.paths import RESERVED
from toolserver.system import swap
from toolserver.system.depstore.placing import Placing
from toolserver.system.depstore.probing import Probe, discard_litter
from toolserver.system.depstore.spares import Spares
from toolserver.system.depstore.store import Layer, Store

root, state, store = map(Path, sys.argv[1:])
packs = Store((Layer(store, shared=False),), 1 << 30)
spares = packs.spares
wanted = tree_of(root)

def place():
    fd = os.open(root, os.O_PATH)
    probe = Probe(fd, state)
    probe.look(packs, Spares(state / "spares"))
    for found in packs.find("a" * 64, str(root), []):
        Placing(fd, str(root), state, probe).place(found, [spares], [])

def killed_at(step):
    steps = itertools.count()
    def counted(act):
        def done(*words, **more):
            if next(steps) == step:
                os._exit(9)
            return act(*words, **more)
        return done
    for name in ("mkdir", "rename", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    place()
    os._exit(0)

for step in itertools.count():
    pid = os.fork()
    if not pid:
        killed_at(step)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for beside in (state, root / RESERVED):
        discard_litter(beside)
    swap.recover(root, state)
    spares.tidy()
    assert tree_of(root) in (wanted, {}), tree_of(root)
    assert [path.name for path in state.iterdir()] == [], step
    assert all(path.name.startswith("a" * 64) for path in spares.directory.glob("*")), step
    if code == 0:
        break
    assert code == 9, code
    if not tree_of(root):
        place()
    assert tree_of(root) == wanted
print(step)
"""


def killed_at_each_step(place: Place) -> None:
    words = map(str, (place.root, place.state, place.store.layers[0].directory))
    program = [sys.executable, "-c", KILLED_AT_EACH_STEP, *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


@pytest.mark.parametrize("with_spare", [True, False])
def test_killed_at_any_step_it_leaves_packages_or_none_and_no_litter_after_the_next_start(
    place: Place, *, with_spare: bool
) -> None:
    if with_spare:
        place.store.make_spare(KEY, "/elsewhere")
    killed_at_each_step(place)


def test_killed_at_any_step_it_leaves_no_litter_in_the_root_either(tmp_path: Path, elsewhere: Path) -> None:
    killed_at_each_step(Place(tmp_path / "root", elsewhere / "state", tmp_path / "store"))
