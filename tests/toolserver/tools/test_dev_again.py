"""A dev server that runs is left alone, and what was asked of it is remembered while its content stays."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.builder import TOKEN, Daemon, Http, Json

SERVER = "exec python3 -m http.server {port} --bind {host}"
WITH_FLAG = f"FLAG=1; {SERVER}"


@pytest.fixture
async def down(http: Http, root: Path) -> AsyncIterator[None]:
    """An empty workspace whose dev server is down, before and after."""
    await http.ok("dev_stop")
    yield
    await http.ok("dev_stop")


def package_json(root: Path) -> None:
    """A package whose script would be found, and whose install would leave a mark."""
    (root / "package.json").write_text('{"scripts": {"dev": "false", "postinstall": "touch installed"}}')


@pytest.mark.usefixtures("down")
class TestAgain:
    async def test_an_empty_start_joins_what_runs_and_installs_nothing(self, http: Http, root: Path) -> None:
        package_json(root)
        first = await http.ok("dev_start", command=WITH_FLAG)
        answer = await http.ok("start")
        assert answer["dev"]["pid"] == first["pid"]
        assert answer["install"]["command"] is None
        assert not (root / "installed").exists()

    async def test_an_empty_dev_start_repeats_the_last_one(self, http: Http, root: Path) -> None:
        first = await http.ok("dev_start", command=WITH_FLAG)
        await http.ok("dev_stop")
        again = await http.ok("dev_start")
        assert again["command"] == first["command"]
        assert again["pid"] != first["pid"]

    async def test_another_command_is_refused_before_anything_is_installed(
        self, http: Http, root: Path
    ) -> None:
        package_json(root)
        await http.ok("dev_start", command=WITH_FLAG)
        refused = await http.refused("start", dev={"command": SERVER})
        assert refused.code == "conflict"
        assert not (root / "installed").exists()

    async def test_new_content_ends_it_and_forgets_its_command(
        self, http: Http, daemon: Daemon, root: Path
    ) -> None:
        await http.ok("dev_start", command=WITH_FLAG)
        await put(daemon, {"notes.txt": b"no dev server here"})
        status = await http.ok("dev_status")
        assert (status["state"], status["pid"]) == ("down", None)
        assert "no dev server to start" in (await http.refused("dev_start")).message

    async def test_a_bad_archive_leaves_it_running(self, http: Http, daemon: Daemon, root: Path) -> None:
        first = await http.ok("dev_start", command=WITH_FLAG)
        refused = await http.refused("start", archive="bm8gYXJjaGl2ZQ==")
        assert refused.code == "archive_invalid"
        assert (await http.ok("dev_status"))["pid"] == first["pid"]


async def put(daemon: Daemon, files: dict[str, bytes]) -> Json:
    """Replace the content by ``files``."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as web,
        web.put(f"{daemon.url}/v1/archive", data=data.getvalue()) as response,
    ):
        assert response.status == 200
        answer: Json = await response.json()
        return answer


class TestAnotherCommand:
    async def test_a_command_id_that_another_command_has_is_refused(self, http: Http, root: Path) -> None:
        await http.ok("command", command="echo one", commandId="mine")
        assert (await http.ok("command", command="echo one", commandId="mine"))["stdout"] == "one\n"
        refused = await http.refused("command", command="echo two", commandId="mine")
        assert (refused.code, refused.message) == (
            "conflict",
            "commandId 'mine' was given to another command; take a new one",
        )

    async def test_attach_shows_what_comes_after_the_offset(self, http: Http, root: Path) -> None:
        await http.ok("command", command="echo one; echo two", commandId="offsets")
        assert (await http.ok("attach", processId="offsets", fromOffset=4))["stdout"] == "two\n"
        assert (await http.ok("attach", processId="offsets", fromOffset=99))["stdout"] == ""


async def test_the_token_is_gone_from_the_daemons_environment(daemon: Daemon) -> None:
    environ = Path(f"/proc/{daemon.pid}/environ")
    if os.geteuid():
        with pytest.raises(PermissionError):
            environ.read_bytes()
    else:
        assert TOKEN.encode() not in environ.read_bytes()
