"""Spare trees: whole or not there, for one taker each, and never more than the store may hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.builder import tree_of
from toolserver.system.copying import held
from toolserver.system.depstore.filling import Unfit
from toolserver.system.depstore.pack import CorruptPack
from toolserver.system.depstore.placing import TREE, Placing
from toolserver.system.depstore.probing import Probe
from toolserver.system.depstore.spares import NAME, Spares
from toolserver.system.depstore.store import Layer, Store

KEY, OTHER = "a" * 64, "b" * 64


class Place:
    """A workspace, and the store of its owner."""

    def __init__(self, base: Path, store: Store, name: str = "one") -> None:
        self.root, self.state = base / name / "root", base / name / "state"
        for directory in (self.root, self.state):
            directory.mkdir(parents=True)
        self.store = store

    @property
    def tree(self) -> Path:
        return self.root / TREE

    def take(self, key: str = KEY, *more: Spares) -> str:
        own = [self.store.spares] if self.store.spares else []
        with held(os.open(self.root, os.O_PATH)) as root:
            for found in self.store.find(key, str(self.root), []):
                placing = Placing(root, str(self.root), self.state, Probe(root, self.state))
                return placing.place(found, [*more, *own], [])
        return ""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((Layer(tmp_path / "store", shared=False),), max_bytes=1 << 30)


@pytest.fixture
def one(tmp_path: Path, store: Store) -> Place:
    """A workspace whose packages are in the store."""
    made = Place(tmp_path, store)
    tree = made.tree
    (tree / "a/lib").mkdir(parents=True)
    (tree / ".bin").mkdir()
    (tree / "a/index.js").write_text("a")
    (tree / "a/lib/large.node").write_bytes(os.urandom(5_000_000))
    (tree / "a/cli.js").write_text("#!")
    (tree / "a/cli.js").chmod(0o755)
    (tree / ".bin/a").symlink_to("../a/cli.js")
    (tree / ".package-lock.json").write_text("{}")
    keep(made, KEY)
    return made


def keep(place: Place, key: str) -> None:
    with held(os.open(place.tree, os.O_RDONLY)) as tree:
        place.store.fill(key, tree, str(place.root), time.time_ns())


def spares_of(store: Store) -> Spares:
    assert store.spares is not None
    return store.spares


def pack_of(store: Store, key: str = KEY) -> Path:
    return store.layers[0].directory / f"{key}.pack"


def test_a_spare_is_moved_in_and_is_what_was_installed(tmp_path: Path, store: Store, one: Place) -> None:
    store.make_spare(KEY, "/elsewhere")
    two = Place(tmp_path, store, "two")
    assert two.take() == "spare tree"
    assert tree_of(two.tree) == tree_of(one.tree)
    assert (two.tree / ".bin/a").readlink() == Path("../a/cli.js")
    assert os.access(two.tree / "a/cli.js", os.X_OK)
    assert two.tree.stat().st_mode & 0o777 == 0o755
    newest = max(path.stat().st_mtime_ns for path in two.tree.iterdir() if path.is_dir())
    assert (two.tree / ".package-lock.json").stat().st_mtime_ns >= newest
    assert list(two.state.iterdir()) == list(spares_of(store).directory.iterdir()) == []
    assert Place(tmp_path, store, "three").take() in {"parallel copy", "shared blocks"}


def test_packages_that_were_there_make_room_for_a_spare(tmp_path: Path, store: Store, one: Place) -> None:
    store.make_spare(KEY, "/elsewhere")
    two = Place(tmp_path, store, "two")
    (two.tree / "old").mkdir(parents=True)
    assert two.take() == "spare tree"
    assert tree_of(two.tree) == tree_of(one.tree)


def test_of_many_who_want_it_one_gets_it(tmp_path: Path, store: Store, one: Place) -> None:
    store.make_spare(KEY, "/elsewhere")
    places = [Place(tmp_path, store, f"number{number}") for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        means = list(pool.map(lambda each: each.take(), places))
    assert means.count("spare tree") == 1
    assert all(means)
    assert all(tree_of(each.tree) == tree_of(one.tree) for each in places)


def test_what_a_workspace_does_to_its_spare_reaches_nobody(tmp_path: Path, store: Store, one: Place) -> None:
    before = pack_of(store).read_bytes()
    store.make_spare(KEY, "/elsewhere")
    two, three = Place(tmp_path, store, "two"), Place(tmp_path, store, "three")
    assert two.take() == "spare tree"
    (two.tree / "a/index.js").write_text("spoilt")
    store.make_spare(KEY, "/elsewhere")
    assert three.take() == "spare tree"
    assert (three.tree / "a/index.js").read_text() == "a"
    assert pack_of(store).read_bytes() == before


def test_a_dev_servers_cache_comes_along_to_its_own_root_only(
    tmp_path: Path, store: Store, one: Place
) -> None:
    (one.tree / ".vite/deps").mkdir(parents=True)
    (one.tree / ".vite/deps/_metadata.json").write_text("{}")
    keep(one, OTHER)
    two = Place(tmp_path, store, "two")
    for place_, carries in ((two, False), (one, True)):
        store.make_spare(OTHER, str(one.root))
        assert place_.take(OTHER) == "spare tree"
        assert (place_.tree / ".vite/deps/_metadata.json").exists() is carries


def test_nothing_is_made_of_a_pack_that_is_not_what_it_was(store: Store, one: Place) -> None:
    pack_of(store).chmod(0o600)
    with pack_of(store).open("r+b") as pack:
        pack.write(b"evil")
    with pytest.raises(CorruptPack, match="do not have the digest"):
        store.make_spare(KEY, "/elsewhere")
    assert list(spares_of(store).directory.iterdir()) == []


def test_no_more_are_made_than_were_asked_for(store: Store, one: Place) -> None:
    store.make_spare(KEY, "/elsewhere")
    with pytest.raises(Unfit, match="there is one already"):
        store.make_spare(KEY, "/elsewhere")
    none = Store(store.layers, store.max_bytes, max_spares=0)
    spares_of(store).drop()
    with pytest.raises(Unfit):
        none.make_spare(KEY, "/elsewhere")
    assert spares_of(store).count(KEY) == 0


def test_spares_count_in_the_stores_bytes_and_go_before_packs(store: Store, one: Place) -> None:
    size = pack_of(store).stat().st_size
    tight = Store(store.layers, max_bytes=size + 1000)
    with pytest.raises(Unfit, match="would hold more than"):
        tight.make_spare(KEY, "/elsewhere")
    two = Store(store.layers, max_bytes=2 * size + 1000)
    two.make_spare(KEY, "/elsewhere")
    with held(os.open(one.tree, os.O_RDONLY)) as tree:
        two.fill(OTHER, tree, str(one.root), time.time_ns())
    assert (pack_of(two, KEY).exists(), pack_of(two, OTHER).exists()) == (True, True)
    assert spares_of(two).count(KEY) == 0
    assert list(spares_of(two).directory.iterdir()) == []


def test_where_users_share_a_store_none_are_made(store: Store, one: Place) -> None:
    store.layers[0].directory.chmod(0o2770)
    assert store.spares is None
    with pytest.raises(Unfit, match="no place for spares"):
        store.make_spare(KEY, "/elsewhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what is another's")
def test_another_users_spares_are_not_taken(tmp_path: Path, store: Store, one: Place) -> None:
    store.make_spare(KEY, "/elsewhere")
    os.chown(spares_of(store).directory, 12345, 12345)
    assert Place(tmp_path, store, "two").take() in {"parallel copy", "shared blocks"}


MAKE_SLOWLY = """
import os, sys, time
from pathlib import Path
from toolserver.system.depstore import unfolding
from toolserver.system.depstore.store import Layer, Store
links = unfolding._Unfolding.links
def slowly(self):
    print("almost done", flush=True)
    time.sleep(1000)
unfolding._Unfolding.links = slowly
Store((Layer(Path(sys.argv[1]), shared=False),), 1 << 30).make_spare(sys.argv[2], "/elsewhere")
"""


def test_a_killed_one_leaves_nothing_that_is_taken_and_nothing_for_good(
    tmp_path: Path, store: Store, one: Place
) -> None:
    words = [str(store.layers[0].directory), KEY]
    with subprocess.Popen([sys.executable, "-c", MAKE_SLOWLY, *words], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(Unfit, match="another makes one"):
            store.make_spare(KEY, "/elsewhere")
        other.send_signal(signal.SIGKILL)
    assert [path.name[:7] for path in spares_of(store).directory.iterdir()] == ["making-"]
    assert Place(tmp_path, store, "two").take() in {"parallel copy", "shared blocks"}
    spares_of(store).tidy()
    assert list(spares_of(store).directory.iterdir()) == []
    store.make_spare(KEY, "/elsewhere")
    assert Place(tmp_path, store, "three").take() == "spare tree"


def test_one_that_is_stopped_leaves_nothing(store: Store, one: Place) -> None:
    store.stop.set()
    with pytest.raises(Unfit, match="the workspace ends"):
        store.make_spare(KEY, "/elsewhere")
    assert list(spares_of(store).directory.iterdir()) == []


def test_one_of_another_boot_is_never_taken_and_goes(store: Store, one: Place) -> None:
    store.make_spare(KEY, "/elsewhere")
    made = next(spares_of(store).directory.iterdir())
    made.rename(made.with_name(f"{KEY}-00000000-12"))
    assert spares_of(store).count(KEY) == 0
    assert one.take(KEY) not in ("", "spare tree")
    store.make_spare(KEY, "/elsewhere")
    assert len(list(spares_of(store).directory.iterdir())) == 1
    assert spares_of(store).count(KEY) == 1


def test_one_that_was_given_is_taken_before_the_stores_own(tmp_path: Path, store: Store, one: Place) -> None:
    store.make_spare(KEY, "/elsewhere")
    two = Place(tmp_path, store, "two")
    given = Spares(two.state / NAME)
    given.directory.mkdir()
    made = next(spares_of(store).directory.iterdir())
    made.rename(given.directory / made.name)
    store.make_spare(KEY, "/elsewhere")
    assert two.take(KEY, given) == "spare tree"
    assert (given.count(KEY), spares_of(store).count(KEY)) == (0, 1)
