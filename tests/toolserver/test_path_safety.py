"""Nothing outside the workspace is read or changed: not by any name, and not by a race.

Every test asks a daemon that has ``openat2`` and one that has to walk by descriptors. The race goes on for
ten seconds in all; RACE_SECONDS makes it longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
import time
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.builder import PATIENCE_SECONDS, Daemon, Http, emptied, running, tree_of

RACE_SECONDS = float(os.environ.get("RACE_SECONDS", "10"))
SECRET = "bytes-that-are-none-of-the-workspace"
_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module", params=["toolserver", "tests.walking"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("safety"), module=request.param) as daemon:
        yield daemon


@pytest.fixture
def root(daemon: Daemon) -> Path:
    return emptied(daemon.root)


@pytest.fixture
def outside(root: Path, tmp_path: Path) -> Path:
    """A directory that looks like one of the workspace's, and is not."""
    place = tmp_path / "outside"
    (place / "sub").mkdir(parents=True)
    for name in ("file", "victim", "only-outside", "sub/file"):
        (place / name).write_text(SECRET)
    return place


@contextlib.contextmanager
def swapping(root: Path, outside: Path) -> Iterator[None]:
    """``dir`` is a directory and a link to the outside by turns, each in one step of the kernel."""
    (root / "dir/sub").mkdir(parents=True)
    (root / "other").symlink_to(outside)
    here, there = (os.fsencode(root / name) for name in ("dir", "other"))
    over = threading.Event()

    def race() -> None:
        while not over.is_set():
            _libc.renameat2(-100, here, -100, there, _EXCHANGE)

    thread = threading.Thread(target=race)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.timeout(300)
async def test_a_race_for_a_directory_never_reaches_outside(
    http: Http, daemon: Daemon, root: Path, outside: Path
) -> None:
    before = tree_of(outside)
    answers: list[str] = []

    async def post(operation: str, **params: Any) -> None:
        async with http._post(operation, params) as response:
            answers.append(await response.text())

    async def raw(method: str, path: str, **more: Any) -> None:
        async with http.session.request(method, f"/v1/files/{path}", **more) as response:
            answers.append(await response.text())

    acts: list[Callable[[], Awaitable[None]]] = [
        lambda: post("write", path="dir/file", content="ours"),
        lambda: post("read", path="dir/file"),
        lambda: post("read", path="dir/sub/file", offset=0, length=10),
        lambda: post("edit", path="dir/file", oldText="ours", newText="ours too"),
        lambda: post("edit", edits=[{"op": "create", "path": "dir/made", "content": "ours"}]),
        lambda: post("list", path="dir", depth=3, gitignore=True),
        lambda: post("search", pattern="bytes|ours", before=1),
        lambda: post("search", pattern="bytes|ours", path="dir", ignored=True),
        lambda: post("search", pattern="only", ignored=True, **{"in": "names"}),
        lambda: post("search", pattern="only", **{"in": "names"}),
        lambda: post("stat", path="dir/file"),
        lambda: raw("GET", "dir/file"),
        lambda: raw("PUT", "dir/sub/file", data=b"ours"),
        lambda: raw("DELETE", "dir/victim"),
        lambda: post("write", path="dir/victim", content="ours"),
        lambda: post("remove", path="dir/victim"),
        lambda: post("move", path="dir/file", to="dir/sub/moved", overwrite=True),
        lambda: post("copy", path="dir/sub", to="copied", overwrite=True),
        lambda: post("mkdir", path="dir/new/deep"),
        lambda: post("chmod", path="dir/file", mode=0o600),
        lambda: post("remove", path="dir/sub", recursive=True),
        lambda: post("undo", force=True),
        lambda: post("checkpoint"),
    ]
    with swapping(root, outside):
        end = time.monotonic() + RACE_SECONDS / 2
        async with asyncio.timeout(RACE_SECONDS + 2 * PATIENCE_SECONDS):
            while time.monotonic() < end or not any('"content":"ours' in each for each in answers):
                await asyncio.gather(*(act() for act in acts))
    assert tree_of(outside) == before
    told = [each for each in answers if SECRET in each or "only-outside" in each]
    assert not told, told[:3]
    kept = b"".join(each.read_bytes() for each in daemon.state.glob("checkpoints.db*"))
    assert SECRET.encode() not in kept


MAGIC = ["self/root", "self/cwd", "1/root", "self/fd/0", "thread-self/root"]


@pytest.mark.parametrize("magic", MAGIC)
async def test_links_of_proc_lead_nowhere(http: Http, root: Path, outside: Path, magic: str) -> None:
    (root / "proc").symlink_to("/proc")
    (root / "magic").symlink_to(f"/proc/{magic}")
    for path in ("magic", f"magic{outside}/file", f"proc/{magic}{outside}/file"):
        refusal = await http.refused("read", path=path)
        assert refusal.code in ("outside_workspace", "not_found"), refusal
        async with http.session.get(f"/v1/files/{quote(path)}") as response:
            assert response.status in (403, 404)
        refusal = await http.refused("write", path=f"{path}/x", content="x")
        assert refusal.code in ("outside_workspace", "not_found", "invalid_request"), refusal
    for name in ("proc", "magic"):  # who tidies up asks where links lead, and may not know
        (root / name).unlink()


NAMES = [
    "line\nend",
    "tab\tand \\ \"quotes\" 'too'",
    "-rf",
    " ",
    "a" * 255,
    "é" * 127,
    "\u202egnp.exe",
    "*?[x]{y}",
    "~",
    "%2e%2e%2f",
]


@pytest.mark.parametrize("name", NAMES, ids=[f"name{number}" for number in range(len(NAMES))])
async def test_a_name_of_any_shape_is_one_name(http: Http, root: Path, name: str) -> None:
    path = f"d/{name}"
    await http.ok("write", path=path, content="one\n")
    assert [each.name for each in (root / "d").iterdir()] == [name]
    await http.ok("edit", path=path, oldText="one", newText="two")
    assert (await http.ok("read", path=path))["content"] == "two\n"
    async with http.session.get(f"/v1/files/{quote(path)}") as response:
        assert await response.text() == "two\n"
    assert [each["path"] for each in (await http.ok("list", path="d"))["entries"]] == [path]
    await http.ok("checkpoint", name="named")
    await http.ok("move", path=path, to="moved")
    await http.ok("rollback", to="named")
    assert tree_of(root) == {"d": None, path: b"two\n"}
    await http.ok("remove", path=path)
    await http.ok("undo")
    assert tree_of(root) == {"d": None, path: b"two\n"}


async def test_a_name_of_256_bytes_is_refused_with_a_sentence(http: Http, root: Path) -> None:
    refusal = await http.refused("write", path="a" * 256, content="x")
    assert refusal.status < 500
    assert tree_of(root) == {}


async def test_case_and_unicode_forms_are_names_of_their_own(http: Http, root: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    names = {"readme": "1", "README": "2", composed: "3", decomposed: "4"}
    for name, content in names.items():
        await http.ok("write", path=name, content=content)
    for name, content in names.items():
        assert (await http.ok("read", path=name))["content"] == content
    assert {each["path"] for each in (await http.ok("list"))["entries"]} == set(names)
    await http.ok("remove", path=decomposed)
    assert (root / composed).read_text() == "3"


async def test_names_that_are_not_utf8_are_shown_kept_and_brought_back(http: Http, root: Path) -> None:
    strange = os.fsencode(root) + b"/caf\xe9"
    Path(os.fsdecode(strange)).write_text("x")
    assert [each["path"] for each in (await http.ok("list"))["entries"]] == ["caf\ufffd"]
    await http.ok("checkpoint", name="strange")
    Path(os.fsdecode(strange)).unlink()
    await http.ok("rollback", to="strange")
    assert [os.fsencode(each.name) for each in root.iterdir()] == [b"caf\xe9"]


async def test_links_that_leave_are_refused_by_every_operation(http: Http, root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "file")
    before = tree_of(outside)
    asked: list[tuple[str, dict[str, Any]]] = [
        ("read", {"path": "file"}),
        ("read", {"path": "link/file"}),
        ("write", {"path": "link/file", "content": "x"}),
        ("write", {"path": "file", "content": "x"}),
        ("edit", {"path": "link/file", "oldText": "b", "newText": "c"}),
        ("list", {"path": "link"}),
        ("stat", {"path": "link/file"}),
        ("mkdir", {"path": "link/new"}),
        ("move", {"path": "link/file", "to": "mine"}),
        ("copy", {"path": "link/file", "to": "mine"}),
        ("remove", {"path": "link/file"}),
        ("chmod", {"path": "file", "mode": 0o777}),
    ]
    for operation, params in asked:
        refusal = await http.refused(operation, **params)
        assert (operation, refusal.code) == (operation, "outside_workspace")
    assert tree_of(outside) == before
    await http.ok("remove", path="link")
    await http.ok("undo")
    assert (root / "link").readlink() == outside
    assert tree_of(outside) == before
