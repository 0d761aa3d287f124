"""The dependency store's law: what comes out is what went in, or nothing; and nobody gets at the store."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.builder import tree_of
from toolserver.system import moving
from toolserver.system.copying import held
from toolserver.system.depstore.filling import Unfit
from toolserver.system.depstore.pack import CorruptPack, File, Index, Segment, read_index, trailer_of
from toolserver.system.depstore.placing import Placing
from toolserver.system.depstore.probing import Probe, discard_litter
from toolserver.system.depstore.store import Layer, Store

KEY = "a" * 64
LARGE = os.urandom(9 * 1024 * 1024 + 17)


class Place:
    """A workspace, and a store that it shares."""

    def __init__(self, base: Path, store: Store, name: str = "one") -> None:
        self.base = base / name
        self.root, self.state = self.base / "root", self.base / "state"
        self.root.mkdir(parents=True)
        self.state.mkdir()
        self.store = store

    @property
    def tree(self) -> Path:
        return self.root / "node_modules"

    def fill(self, key: str = KEY, installed_ns: int | None = None) -> Index:
        with held(os.open(self.tree, os.O_RDONLY)) as tree:
            return self.store.fill(key, tree, str(self.root), installed_ns or time.time_ns())

    def take(self, key: str = KEY) -> tuple[str, list[str]]:
        complaints: list[str] = []
        with held(os.open(self.root, os.O_PATH)) as root:
            for found in self.store.find(key, str(self.root), complaints):
                placing = Placing(root, str(self.root), self.state, Probe(root, self.state))
                return placing.place(found, [], complaints), complaints
        return "", complaints


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((Layer(tmp_path / "store", shared=False),), max_bytes=1 << 30)


@pytest.fixture
def one(tmp_path: Path, store: Store) -> Place:
    made = Place(tmp_path, store)
    packages(made.tree)
    return made


def packages(tree: Path) -> None:
    (tree / "a/lib").mkdir(parents=True)
    (tree / "a/index.js").write_text("a")
    (tree / "a/lib/large.node").write_bytes(LARGE)
    (tree / "a/empty").touch()
    (tree / "a/cli.js").write_bytes(b"#!" + os.urandom(70_000))
    (tree / "a/cli.js").chmod(0o755)
    (tree / "@scope/b").mkdir(parents=True)
    for number in range(300):
        (tree / f"@scope/b/{number}.js").write_bytes(os.urandom(number * 101))
    (tree / "hollow").mkdir()
    (tree / ".bin").mkdir()
    (tree / ".bin/a").symlink_to("../a/cli.js")
    (tree / ".package-lock.json").write_text("{}")


def a_tick_later(place: Path) -> int:
    """Now; and what is changed from here on shows a later time, which the clock of files tells in ticks."""
    now = time.time_ns()
    with tempfile.TemporaryFile(dir=place) as probe:
        while os.fstat(probe.fileno()).st_ctime_ns <= now:
            time.sleep(0.001)
            os.fchmod(probe.fileno(), 0o600)
    return now


def pack_of(store: Store, key: str = KEY) -> Path:
    assert store.own is not None
    return store.own.directory / f"{key}.pack"


def test_what_comes_out_is_what_went_in(tmp_path: Path, store: Store, one: Place) -> None:
    one.fill()
    two = Place(tmp_path, store, "two")
    assert two.take() == ("parallel copy", []) or two.take()[0] == "shared blocks"
    assert tree_of(two.tree) == tree_of(one.tree)
    assert (two.tree / ".bin/a").readlink() == Path("../a/cli.js")
    assert (two.tree / "hollow").is_dir()
    assert os.access(two.tree / "a/cli.js", os.X_OK)
    assert (two.tree / "a/index.js").stat().st_mode & 0o111 == 0
    newest = max(path.stat().st_mtime_ns for path in two.tree.iterdir() if path.is_dir())
    assert (two.tree / ".package-lock.json").stat().st_mtime_ns >= newest
    assert list(two.state.iterdir()) == []


def test_packages_that_were_there_make_room(tmp_path: Path, store: Store, one: Place) -> None:
    one.fill()
    two = Place(tmp_path, store, "two")
    (two.tree / "old").mkdir(parents=True)
    two.take()
    assert tree_of(two.tree) == tree_of(one.tree)


@pytest.mark.parametrize("where", [0, 5, 4_000_000, -1, -20, -45, -300], ids=str)
def test_one_wrong_byte_is_found_and_nothing_changes(one: Place, where: int) -> None:
    one.fill()
    pack = pack_of(one.store)
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.seek(where, os.SEEK_END if where < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    before = tree_of(one.root)
    if where >= 0:
        with pytest.raises(CorruptPack, match="do not have the digest"):
            one.take()
    else:
        means, (complaint,) = one.take()
        assert means == ""
        assert complaint.startswith("a pack of the own store was removed, for ")
        assert not pack.exists()
    assert tree_of(one.root) == before
    assert list(one.state.iterdir()) == []


@pytest.mark.parametrize("size", [0, 10, 50_000, 9_000_000])
def test_a_pack_cut_short_is_found(one: Place, size: int) -> None:
    one.fill()
    os.truncate(pack_of(one.store), size)
    assert one.take()[0] == ""


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../out", "missing/x", "", ".", "a\0b"])
def test_a_pack_cannot_name_a_place_outside(tmp_path: Path, name: str) -> None:
    digest = hashlib.sha256(b"x").digest()
    file = Segment(0, 1, digest, [File(name, 0, 1, False)])
    index = Index(root="/", bound=False, directories=["a"], links=[], segments=[file])
    evil = tmp_path / "evil"
    evil.write_bytes(b"x" + trailer_of(index, 1))
    with evil.open("rb") as pack, pytest.raises(CorruptPack, match="no place in it"):
        read_index(pack.fileno())


def test_a_link_cannot_lead_out(tmp_path: Path, one: Place) -> None:
    index = Index(root="/", bound=False, directories=[], links=[("a", "../../x")], segments=[])
    (tmp_path / "evil").write_bytes(trailer_of(index, 0))
    with (tmp_path / "evil").open("rb") as pack, pytest.raises(CorruptPack, match="leads out"):
        read_index(pack.fileno())
    (one.tree / "out").symlink_to("../..")
    with pytest.raises(Unfit, match="leads out"):
        one.fill()


def test_a_directory_made_before_and_moved_in_after_the_install_is_not_kept(
    one: Place, tmp_path: Path
) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "index.js").write_text("evil")
    installed = a_tick_later(tmp_path)
    (one.tree / "a").rename(tmp_path / "good")
    (tmp_path / "evil").rename(one.tree / "a")
    with pytest.raises(Unfit, match=r"'a' was changed after the install"):
        one.fill(installed_ns=installed)


def test_what_was_changed_after_the_install_is_not_kept(one: Place, tmp_path: Path) -> None:
    installed = a_tick_later(tmp_path)
    (one.tree / "a/index.js").write_text("evil")
    os.utime(one.tree / "a/index.js", ns=(1, 1))
    with pytest.raises(Unfit, match=r"'a/index\.js' was changed after the install"):
        one.fill(installed_ns=installed)
    assert one.take() == ("", [])


def test_what_holds_the_path_of_its_workspace_is_not_for_others(one: Place) -> None:
    (one.tree / "a/shim").write_text(f"NODE_PATH={one.root}/node_modules")
    with pytest.raises(Unfit, match="holds the path"):
        one.fill()


def test_vites_cache_is_good_for_the_same_root_only(tmp_path: Path, store: Store, one: Place) -> None:
    (one.tree / ".vite/deps").mkdir(parents=True)
    (one.tree / ".vite/deps/_metadata.json").write_text("{}")
    (one.tree / ".astro").mkdir()
    (one.tree / ".astro/mine").write_text("x")
    one.fill()
    two = Place(tmp_path, store, "two")
    two.take()
    assert not (two.tree / ".vite").exists()
    one.take()
    assert (one.tree / ".vite/deps/_metadata.json").read_text() == "{}"
    assert not (one.tree / ".astro").exists()


def test_the_least_recently_used_go_first(tmp_path: Path, one: Place) -> None:
    one.fill("a" * 64)
    size = pack_of(one.store, "a" * 64).stat().st_size
    one.fill("b" * 64)
    os.utime(pack_of(one.store, "a" * 64), (1, 1))
    os.utime(pack_of(one.store, "b" * 64), (2, 2))
    one.take("a" * 64)  # used just now
    small = Store(one.store.layers, max_bytes=2 * size + 100)
    with held(os.open(one.tree, os.O_RDONLY)) as tree:
        small.fill("c" * 64, tree, str(one.root), time.time_ns())
    assert [pack_of(small, c * 64).exists() for c in "abc"] == [True, False, True]


def test_what_is_larger_than_the_store_is_not_kept(one: Place) -> None:
    small = Store(one.store.layers, max_bytes=1000)
    with held(os.open(one.tree, os.O_RDONLY)) as tree, pytest.raises(Unfit, match="1000 bytes"):
        small.fill(KEY, tree, str(one.root), time.time_ns())
    assert list((one.store.layers[0].directory).iterdir()) == []


FILL_SLOWLY = """
import os, sys, time
from pathlib import Path
from toolserver.system.depstore import filling
from toolserver.system.depstore.store import Layer, Store
write = filling.write_all
def slowly(fd, data):
    write(fd, data)
    print("writes", flush=True)
    time.sleep(1000)
filling.write_all = slowly
store = Store((Layer(Path(sys.argv[1]), shared=False),), 1 << 30)
store.fill(sys.argv[3], os.open(sys.argv[2], os.O_RDONLY), "/root", time.time_ns())
"""


def test_a_killed_filling_leaves_nothing_that_is_taken(one: Place) -> None:
    assert one.store.own is not None
    words = [str(one.store.own.directory), str(one.tree), KEY]
    with subprocess.Popen([sys.executable, "-c", FILL_SLOWLY, *words], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(Unfit, match="another workspace keeps the same packages"):
            one.fill()
        other.send_signal(signal.SIGKILL)
    assert one.take() == ("", [])
    one.fill()
    assert one.take()[0]


def test_a_killed_placing_is_trash(one: Place) -> None:
    (one.state / "dependencies-0123/node_modules/a").mkdir(parents=True)
    (one.state / "kept").touch()
    discard_litter(one.state)
    assert [path.name.partition("-")[0] for path in sorted(one.state.iterdir())] == ["kept", "trash"]


PLACE_AND_DIE = """
import itertools, os, sys
from pathlib import Path
from tests.toolserver.system.test_depstore import KEY, Place
from toolserver.system import moving
from toolserver.system.depstore.store import Layer, Store

place = Place(Path(sys.argv[1]), Store((Layer(Path(sys.argv[2]), shared=False),), 1 << 30), "killed")
place.tree.mkdir()
(place.tree / "old").touch()

def dying(call, count, at):
    def changed(*args, **kwargs):
        if next(count) == at:
            os._exit(9)
        return call(*args, **kwargs)
    return changed

for at in itertools.count():
    if not (pid := os.fork()):
        count = itertools.count()
        os.rename, moving.rename = dying(os.rename, count, at), dying(moving.rename, count, at)
        place.take()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(code, *sorted(os.listdir(place.tree) if place.tree.exists() else ["nothing"]))
    if code != 9:
        break
"""


def test_a_placing_that_is_killed_leaves_the_packages_of_before_or_the_new_ones(
    tmp_path: Path, store: Store
) -> None:
    one = Place(tmp_path, store)
    one.tree.mkdir()
    (one.tree / "new").touch()
    one.fill()
    words = [str(tmp_path), str(pack_of(store).parent)]
    argv = [sys.executable, "-c", PLACE_AND_DIE, *words]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    *killed, last = done.stdout.splitlines()
    assert last == "0 new", done.stderr
    assert set(killed) == {"9 old", "9 new"}


def test_packages_change_places_in_two_steps_where_one_is_not_known(
    tmp_path: Path, store: Store, one: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    one.fill()
    two = Place(tmp_path, store, "two")
    (two.tree / "old").mkdir(parents=True)
    monkeypatch.setattr(moving, "rename", unknown)
    two.take()
    assert tree_of(two.tree) == tree_of(one.tree)
    assert list(two.state.iterdir()) == []


def test_ten_workspaces_share_it_while_one_spoils_its_copy(tmp_path: Path, store: Store, one: Place) -> None:
    one.fill()
    before = pack_of(store).read_bytes()
    places = [Place(tmp_path, store, f"number{number}") for number in range(10)]
    places[0].take()
    for path in places[0].tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(b"spoilt")
    with ThreadPoolExecutor(3) as pool:
        assert all(means for means, _ in pool.map(lambda each: each.take(), places[1:]))
    wanted = tree_of(one.tree)
    assert all(tree_of(each.tree) == wanted for each in places[1:])
    assert pack_of(store).read_bytes() == before


def test_the_hosts_packs_are_read_and_never_removed(tmp_path: Path, store: Store, one: Place) -> None:
    one.fill()
    directory = tmp_path / "shared"
    pack_of(store).parent.rename(directory)
    shared = Store((Layer(directory, shared=True), *store.layers), 1 << 30)
    two = Place(tmp_path, shared, "two")
    assert two.take()[0]
    os.truncate(directory / f"{KEY}.pack", 7)
    assert two.take() == (
        "",
        ["a pack of the shared store is passed over, for it is cut short; warm it again"],
    )
    assert (directory / f"{KEY}.pack").exists()
    one.fill()
    assert two.take()[0]


def test_a_pack_that_another_made_whole_just_now_stays_whole(
    one: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening of a part and its lock: what is open and locked then is the pack."""
    assert store.own is not None
    lock, pack = fcntl.flock, store.own.directory / f"{KEY}.pack"

    def another_was_quicker(fd: int, how: int) -> None:
        part = store.own and store.own.directory / f"{KEY}.part"
        assert part
        part.write_bytes(b"a pack")
        part.rename(pack)
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", another_was_quicker)
    with pytest.raises(Unfit, match="just now"):
        one.fill()
    assert pack.read_bytes() == b"a pack"


def test_packages_are_placed_where_a_dev_server_begins_its_cache_at_that_moment(
    one: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.fill()
    kept, rename, begun = tree_of(one.tree), os.rename, list[str]()

    def no_exchange(*given: Any, **more: Any) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def with_a_cache(source: Any, target: Any, **where: Any) -> None:
        if (source, target) == ("node_modules", "node_modules") and not begun:
            begun.append("cache")
            (one.tree / ".vite").mkdir(parents=True)
        rename(source, target, **where)

    monkeypatch.setattr(moving, "rename", no_exchange)
    monkeypatch.setattr(os, "rename", with_a_cache)
    assert one.take()[0]
    assert begun == ["cache"]
    assert tree_of(one.tree) == kept
