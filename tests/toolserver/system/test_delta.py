"""Deltas: what differs from a save and nothing else, put onto the tree that it was made from and no other."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from protocol.errors import ArchiveInvalid, ArchiveUnsafe, Conflict, TooLarge
from protocol.exclusions import Exclusions
from protocol.limits import MIB, Limits
from protocol.manifests import DELTA_MEMBER, REMOVED_MEMBER, Delta, Entry, tree_digest, write_delta
from protocol.messages.archives import ArchiveFormat, Times
from protocol.tar import Kind, Member, pack
from tests.builder import emptied
from tests.random_trees import trees
from tests.trees import Directory, File, Link, Tree, described, plant
from toolserver.system.delta import putting, survey
from toolserver.system.swap import Staging
from toolserver.system.tarballs import Base, Extraction, Packed, Packing

DEFAULT, ALL = Exclusions.default(), Exclusions.nothing()
OLD: Tree = {
    "a": File(b"1"),
    "d": Directory(),
    "d/gone": Directory(),
    "d/gone/x": File(b"x"),
    "d/kept": File(b"kept", 0o755),
    "link": Link("a"),
    "turns": Directory(),
    "turns/below": File(b"below"),
}
NEW: Tree = {
    "a": File(b"2"),
    "d": Directory(0o700),
    "d/kept": File(b"kept", 0o755),
    "d/new": File(b"new"),
    "link": Link("d"),
    "turns": File(b"a file where a directory was"),
}


def save(root: Path, base: Base | None = None, rules: Exclusions = DEFAULT) -> tuple[bytes, Packed, Base]:
    """The archive, what it holds, and what a delta since it is made from."""
    noted: list[Entry] = []
    fd = os.open(root, os.O_RDONLY)
    try:
        with Packing(fd, rules, ArchiveFormat.TAR, note=noted.append, base=base) as packing:
            archive = b"".join(packing)
    finally:
        os.close(fd)
    told = packing.result
    entries = {entry.path: entry for entry in noted}
    assert tree_digest(noted) == told.tree
    return (
        archive,
        told,
        Base(digest=told.digest, tree=told.tree, entries=entries, exclude=[], include=[], times=Times.KEPT),
    )


def inject(archive: bytes, root: Path, state: Path) -> None:
    """As the tool server does: whole, or as a delta when it is one."""
    with Staging(root, state) as staging:
        with Extraction(staging.open()) as extraction:
            extraction.feed(archive)
            told = extraction.finish()
        if told.delta is None:
            staging.replace()
        else:
            staging.put(partial(putting, delta=told.delta, removed=told.removed, limits=Limits()))


def members(archive: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {name.removeprefix("./") for name in opened.getnames()} - {".", DELTA_MEMBER, REMOVED_MEMBER}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    plant(place, OLD)
    return place


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def delta(root: Path, state: Path) -> Iterator[bytes]:
    """From OLD to NEW, with OLD back in the root."""
    whole, _, base = save(root)
    plant(emptied(root), NEW)
    archive = save(root, base)[0]
    inject(whole, root, state)
    yield archive
    assert not list(state.iterdir())


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(trees(), trees())
def test_a_delta_makes_any_tree_of_any_other(old: Tree, new: Tree) -> None:
    with tempfile.TemporaryDirectory() as place:
        here, there, state = Path(place, "here"), Path(place, "there"), Path(place, "state")
        here.mkdir()
        there.mkdir()
        plant(here, old)
        whole, _, base = save(here, rules=ALL)
        plant(emptied(here), new)
        archive, told, _ = save(here, base, ALL)
        inject(whole, there, state)
        assert described(there) == old
        inject(archive, there, state)
        assert described(there) == new
        assert save(there, rules=ALL)[1].tree == told.tree


def test_a_delta_holds_what_differs_and_the_directories_above_it(root: Path) -> None:
    _, _, base = save(root)
    (root / "d/kept").write_bytes(b"KEPT")
    (root / "a").unlink()
    archive, told, _ = save(root, base)
    assert members(archive) == {"d", "d/kept"}
    assert (told.files, told.content_bytes, told.removed) == (1, 4, 1)
    assert (told.tree_files, told.tree_bytes) == (3, 10)


def test_a_tree_that_is_as_it_was_makes_an_empty_delta(root: Path) -> None:
    _, whole, base = save(root)
    archive, told, _ = save(root, base)
    assert members(archive) == set()
    assert (told.files, told.removed, told.tree) == (0, 0, whole.tree)


def test_a_delta_can_be_the_base_of_the_next(root: Path, state: Path) -> None:
    whole, _, base = save(root)
    (root / "a").write_bytes(b"second")
    first, _, base = save(root, base)
    (root / "b").write_bytes(b"third")
    second, _, _ = save(root, base)
    assert members(second) == {"b"}
    emptied(root)
    for archive in (whole, first, second):
        inject(archive, root, state)
    assert described(root) == dict(sorted((OLD | {"a": File(b"second"), "b": File(b"third")}).items()))


def test_a_change_that_keeps_size_and_time_is_noticed(root: Path) -> None:
    place = root / "a"
    os.utime(place, (1, 1))
    _, _, base = save(root)
    place.write_bytes(b"9")
    os.utime(place, (1, 1))
    assert members(save(root, base)[0]) == {"a"}


def test_a_file_that_was_only_touched_is_no_difference(root: Path) -> None:
    _, _, base = save(root)
    os.utime(root / "a", (1, 1))
    assert members(save(root, base)[0]) == set()


def test_a_file_of_a_known_stamp_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, base = save(root)
    settled = {
        path: Entry(
            entry.path,
            entry.letter,
            entry.mode,
            entry.mtime,
            entry.size,
            entry.content,
            (info.st_ino, info.st_mtime_ns, info.st_ctime_ns),
        )
        for path, entry in base.entries.items()
        for info in [os.lstat(root / os.fsdecode(path))]
    }
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("a file was read"))
    assert members(save(root, msgspec.structs.replace(base, entries=settled))[0]) == set()


def test_a_large_file_is_packed_only_when_it_differs(root: Path) -> None:
    (root / "large").write_bytes(bytes(5 * MIB))
    _, _, base = save(root)
    assert members(save(root, base)[0]) == set()
    with (root / "large").open("r+b") as file:
        file.write(b"x")
    assert members(save(root, base)[0]) == {"large"}


def test_kinds_modes_links_and_removals_are_put_in_place(root: Path, state: Path, delta: bytes) -> None:
    inject(delta, root, state)
    assert described(root) == NEW


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a").write_bytes(b"somebody's"),
        lambda root: (root / "more").write_bytes(b""),
        lambda root: (root / "d/gone/x").unlink(),
        lambda root: (root / "d/kept").chmod(0o600),
    ],
)
def test_a_delta_onto_another_tree_changes_nothing(
    change: object, root: Path, state: Path, delta: bytes
) -> None:
    assert callable(change)
    change(root)
    before = described(root)
    with pytest.raises(Conflict, match="belongs onto the content of save sha256:") as refusal:
        inject(delta, root, state)
    assert refusal.value.details["base"] != refusal.value.details["tree"]
    assert described(root) == before


def test_what_saves_leave_out_neither_hinders_a_delta_nor_goes(root: Path, state: Path, delta: bytes) -> None:
    plant(root, {"node_modules/x/index.js": File(b"mine")})
    inject(delta, root, state)
    assert {path: node for path, node in described(root).items() if "node_modules" not in path} == NEW
    assert (root / "node_modules/x/index.js").read_bytes() == b"mine"


def crafted(
    root: Path, *more: tuple[Member, bytes], removed: bytes = b"", tree: str = "", text: bytes = b""
) -> bytes:
    """A delta onto what is in ``root``, by hand."""
    fd = os.open(root, os.O_RDONLY)
    try:
        base = tree_digest(survey(fd, Exclusions.default(), Limits()).values())
    finally:
        os.close(fd)
    text = text or write_delta(Delta(since="sha256:" + "0" * 64, base=base, tree=tree or base))
    told = [(DELTA_MEMBER, text), (REMOVED_MEMBER, removed)]
    entries = [*more, *((Member(name=name, size=len(data)), data) for name, data in told)]
    return b"".join(pack((member, [data]) for member, data in entries))


HOSTILE: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "removes what lies outside": ({"removed": b"../x\0"}, ArchiveUnsafe, "climbs by '..'"),
    "removes an absolute path": ({"removed": b"/etc\0"}, ArchiveUnsafe, "has an absolute name"),
    "removes the root": ({"removed": b".\0"}, ArchiveInvalid, "which its base does not have"),
    "removes what is not there": (
        {"removed": b"b\0"},
        ArchiveInvalid,
        "removes 'b', which its base does not",
    ),
    "removes through a link": ({"removed": b"link/x\0"}, ArchiveInvalid, "which its base does not have"),
    "is cut short": ({"removed": b"a"}, ArchiveInvalid, "list of removed paths is cut short"),
    "promises another tree": ({"tree": "sha256:" + "1" * 64}, ArchiveInvalid, "makes a tree sha256:"),
    "says nothing of itself": ({"text": b"{}"}, ArchiveInvalid, "delta.json is none of ours"),
    "is of another version": (
        {"text": b'{"version":2,"since":"a","base":"b","tree":"c"}'},
        ArchiveInvalid,
        "a delta of version 2",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_delta_that_is_hostile_is_refused(what: str, root: Path, state: Path) -> None:
    made, error, reason = HOSTILE[what]
    with pytest.raises(error) as refusal:
        inject(crafted(root, **made), root, state)  # type: ignore[arg-type]
    assert reason in str(refusal.value)
    assert described(root) == OLD


def test_a_delta_brings_nothing_that_it_removes(root: Path, state: Path) -> None:
    with pytest.raises(ArchiveInvalid, match="removes 'a', and brings it too"):
        inject(crafted(root, (Member(name="a", size=1), b"x"), removed=b"a\0"), root, state)
    assert described(root) == OLD


def test_a_list_of_removed_paths_without_a_delta_is_refused(root: Path, state: Path) -> None:
    archive = b"".join(pack([(Member(name="a"), ()), (Member(name=REMOVED_MEMBER), ())]))
    with pytest.raises(ArchiveInvalid, match=r"no '\.workspace-core/delta\.json' to go with it"):
        inject(archive, root, state)
    assert described(root) == OLD


def test_what_a_delta_tells_of_itself_has_a_bound(tmp_path: Path) -> None:
    entries = [(Member(name=REMOVED_MEMBER, size=2000), [b"a" * 1999 + b"\0"])]
    with (
        pytest.raises(TooLarge, match="maxRemovedBytes"),
        Extraction(tmp_path, Limits(max_removed_bytes=1000)) as extraction,
    ):
        extraction.feed(b"".join(pack(entries)))


def test_a_directory_of_that_name_is_passed_over(root: Path, state: Path) -> None:
    entries = [(Member(name="a"), ()), (Member(name=DELTA_MEMBER, kind=Kind.DIRECTORY), ())]
    inject(b"".join(pack(entries)), root, state)
    assert described(root) == {"a": File(b"")}
