"""Packages that the host installs in advance: every user's workspaces have them, and none can change them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator import WorkspaceHost
from orchestrator.dependency_store import SharedStore
from orchestrator.launch import Stage
from orchestrator.paths import PathManager
from orchestrator.toolchain import find_toolchain
from orchestrator.warming import warm
from orchestrator.workspace.host import Quiet
from protocol.errors import Conflict, Internal
from protocol.messages.devserver import StoreOutcome
from tests.builder import until
from tests.orchestrator.live import Host
from tests.ports import free_port

FAKE_NODE = """#!/bin/sh
case "$2" in *execPath*) echo "$0"; echo 24.1.0 ;; *) echo v24.1.0 ;; esac
"""
FAKE_NPM = """#!/bin/sh
mkdir -p node_modules/left
echo "$HOME" > node_modules/left/installed-by
"""


class Listening(Quiet):
    """An observer that keeps what tools print."""

    heard = ""

    def said(self, stage: Stage, text: str) -> None:
        self.heard += text


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    Host(tmp_path).end_everything()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A machine whose npm needs no network."""
    programs = tmp_path / "programs/bin"
    programs.mkdir(parents=True)
    for name, text in {"node": FAKE_NODE, "npm": FAKE_NPM}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    rg = find_toolchain(os.environ).rg.parent
    return {**os.environ, "PATH": f"{programs}:{rg}:{os.environ['PATH']}"}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    made = tmp_path / "shop"
    made.mkdir()
    (made / "package.json").write_text('{"dependencies": {"left": "1"}}')
    (made / "package-lock.json").write_text("{}")
    # One of its own: a session that loses its port to another test is begun again, and a spare is given once.
    (made / "template.json").write_text(json.dumps({"id": "shop", "port": free_port()}))
    return made


async def test_what_the_host_warmed_all_users_take_and_none_can_change(
    tmp_path: Path, data: Path, environ: dict[str, str], template: Path
) -> None:
    paths = PathManager(data)
    store = SharedStore(paths.store_dir)
    (warmed,) = await warm([str(template)], paths, store, "local", environ, tmp_path, Quiet())
    assert (warmed.path, warmed.files) == (paths.store_dir / f"{warmed.key}.pack", 1)
    before = warmed.path.read_bytes()
    assert sorted(each.name for each in (data / "cache").iterdir()) == [".store"]
    assert not list(data.glob("workspaces/*/*"))
    async with WorkspaceHost(data, environ=environ, directory=tmp_path) as host:
        for user in ("ann", "bob"):
            async with await host.create(str(template), user=user, keep_files=False) as workspace:
                by = await workspace.read_text("node_modules/left/installed-by")
                assert "/cache/.warming-" in by
                sessions = await host.sessions()
                async with sessions.client(workspace.hosted.record) as client:
                    use = (await client.install()).store
                assert use is not None
                assert (use.outcome, use.key, use.layer) == (StoreOutcome.HIT, warmed.key, "shared")
                if workspace.properties.isolates_files:
                    for line in (
                        f"echo evil >> {warmed.path}",
                        f"chmod 777 {warmed.path}",
                        f"rm -f {warmed.path}",
                    ):
                        assert (await workspace.execute_command(line)).exit_code != 0
                    assert (await workspace.execute_command(f"ls {data}/cache/bob")).exit_code == (
                        0 if user == "bob" else 2
                    )
    assert warmed.path.read_bytes() == before


async def test_what_was_unfolded_in_advance_is_handed_to_one_session_each(
    tmp_path: Path, data: Path, environ: dict[str, str], template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.spares.AFTER_SECONDS", 0.1)
    paths = PathManager(data)
    store = SharedStore(paths.store_dir)
    (warmed,) = await warm([str(template)], paths, store, "local", environ, tmp_path, Quiet())
    ready = paths.store_dir / "spares"

    def spares() -> list[Path]:
        return list(ready.glob(f"{warmed.key}-*"))

    assert len(spares()) == 1
    observer, owners = Listening(), []
    async with WorkspaceHost(data, environ=environ, directory=tmp_path) as host:
        for user in ("ann", "bob"):
            created = host.create(str(template), user=user, keep_files=False, observer=observer)
            async with await created as workspace:
                started = workspace.hosted.record
                root = paths.workspace_dir(user, started.session_id)
                owners.append({path.lstat().st_uid for path in (root, *root.rglob("*"))})
                assert not list(paths.session_area(user, started.session_id).directory.glob("spares-*"))
                done = await workspace.execute_command("echo mine >> node_modules/left/installed-by")
                assert done.exit_code == 0
                await until(lambda: len(spares()) == 1)
                if workspace.properties.isolates_files:
                    assert (await workspace.execute_command(f"ls {ready}")).exit_code != 0
                    assert (await workspace.execute_command(f"rm -r {spares()[0]}")).exit_code != 0
    assert observer.heard.count("from the shared dependency store by spare tree: 1 files") == 2
    assert all(len(each) == 1 for each in owners)
    assert "mine" not in (spares()[0] / "left/installed-by").read_text()


async def test_what_is_not_to_be_kept_is_told_and_nothing_is_left(
    tmp_path: Path, data: Path, environ: dict[str, str], template: Path
) -> None:
    (template / "package.json").write_text('{"scripts": {"prepare": "true"}}')
    paths = PathManager(data)
    with pytest.raises(Conflict, match="its own script 'prepare' has to run"):
        await warm([str(template)], paths, SharedStore(paths.store_dir), "local", environ, tmp_path, Quiet())
    assert not list((data / "cache").iterdir())


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def test_a_pack_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("cut")

    store = SharedStore(tmp_path / "store")
    with pytest.raises(ConnectionError):
        await store.put("a" * 64, broken())
    with pytest.raises(Internal, match="is no key"):
        await store.put("../x", pieces(b"x"))
    assert not store.has_packs()
    path = await store.put("a" * 64, pieces(b"wh", b"ole"))
    assert (path.read_bytes(), path.stat().st_mode & 0o777, store.has_packs()) == (b"whole", 0o444, True)
    assert list(store.directory.iterdir()) == [path]


async def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    store = SharedStore(tmp_path / "store", max_bytes=10)
    old, new = [await store.put(letter * 64, pieces(b"12345")) for letter in "ab"]
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    third = await store.put("c" * 64, pieces(b"123"))
    assert [path.exists() for path in (old, new, third)] == [False, True, True]
