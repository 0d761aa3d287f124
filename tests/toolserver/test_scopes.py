"""What a session token is good for: the table of operations beside every scope, through both doors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.operations import OPERATIONS
from tests.builder import Daemon, Json, emptied, http_of, running, socket_of
from tests.signing import ALL, Signer

SIGNER = Signer()
CONFINED = {name for name, each in OPERATIONS.items() if each.confined}
RAW = [
    ("GET", "/v1/files/src/a.txt", "read"),
    ("PUT", "/v1/files/src/new.txt", "write"),
    ("DELETE", "/v1/files/src/a.txt", "write"),
    ("GET", "/v1/archive", "archive"),
    ("PUT", "/v1/archive", "archive"),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    keys = {"TOOL_SERVER_PUBLIC_KEY": f"{Signer().public}, {SIGNER.public}", "SESSION_ID": "s1"}
    with running(tmp_path_factory.mktemp("scopes"), token=None, **keys) as daemon:
        yield daemon


@pytest.fixture
def tree(daemon: Daemon) -> Daemon:
    root = emptied(daemon.root)
    for name in ("src/deep/b.txt", "src/a.txt", "secret.txt", "srcs/c.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("needle\n")
    (root / "src/out").symlink_to("../secret.txt")
    (root / "src/in").symlink_to("deep")
    (root / "src/whole").symlink_to(root / "src/deep/b.txt")
    (root / "src/far").symlink_to(root / "secret.txt")
    (root / "alias").symlink_to("src")
    return daemon


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def needs(scope: str) -> str:
    return f" needs the scope '{scope}'; this token has "


@pytest.mark.parametrize("scope", ALL)
async def test_every_operation_is_let_through_by_its_own_scope_alone(daemon: Daemon, scope: str) -> None:
    """Let through is whatever is not about the token: most of these requests lack their fields."""
    async with (
        http_of(daemon, **bearer(SIGNER.token(scope))) as http,
        socket_of(daemon, **bearer(SIGNER.token(scope))) as socket,
    ):
        for name, operation in OPERATIONS.items():
            params = FORMED.get(name, {})
            refusal = await asyncio.gather(
                refused_by_http(http, name, params), refused_by(socket, name, params)
            )
            for error in refusal:
                if operation.scope.value == scope:
                    assert error is None or error["code"] != "forbidden", (name, error)
                else:
                    assert error is not None, name
                    assert error["code"] == "forbidden", (name, error)
                    assert error["message"].startswith(f"{name}{needs(operation.scope.value)}'{scope}'")
                    assert error["details"] == {"scope": operation.scope.value, "operation": name}


GONE: Json = {"processId": "gone"}
FORMED: dict[str, Json] = {
    "read": {"path": "gone"},
    "read_many": {"files": []},
    "write": {"path": "gone/x", "content": "", "createParents": False},
    "stat": {"path": "gone"},
    "mkdir": {"path": "gone/x", "parents": False},
    "move": {"path": "gone", "to": "x"},
    "copy": {"path": "gone", "to": "x"},
    "remove": {"path": "gone"},
    "chmod": {"path": "gone", "mode": 0o600},
    "checkpoint_diff": {"from": "gone"},
    "rollback": {"to": "gone"},
    "search": {"pattern": "x"},
    "replace": {"pattern": "x", "replacement": "y"},
    "edit": {"path": "gone", "oldText": "x", "newText": "y"},
    "watch": {"timeoutMs": 0},
    "command": {"argv": ["no-program-of-that-name"]},
    **dict.fromkeys("attach output stop wait".split(), GONE),
    "send_input": {**GONE, "data": "x"},
    "signal": {**GONE, "signal": "TERM"},
    "ports": {"follow": False},
    "shell": {"command": "true", "name": ""},
    "shell_output": {"number": 1, "name": "gone"},
    "shell_restart": {"name": ""},
    "shell_stop": {"name": "gone"},
    "terminal_open": {"name": ""},
    "terminal_attach": {"terminal": "gone"},
    "resize": {**GONE, "cols": 80, "rows": 24},
    "inject": {"archive": ""},
    "install": {"command": "true"},
    "dev_start": {"command": "true", "port": 0},
    "start": {"archive": base64.b64encode(b"none").decode()},
    "revoke": {"tokenId": "gone"},
    "bind_session": {"sessionId": "s1"},
}


async def refused_by_http(http: Any, name: str, params: Json) -> Json | None:
    async with http.session.post(f"/v1/{name}", json=params) as response:
        body: Json = await response.json()
        error: Json | None = body.get("error")
        return error


async def refused_by(socket: Any, name: str, params: Json) -> Json | None:
    _, last = await socket.call(name, **params)
    error: Json | None = last.get("error")
    return error


@pytest.mark.parametrize(("method", "path", "scope"), RAW)
@pytest.mark.parametrize("given", ALL)
async def test_the_raw_doors_ask_for_the_same_scopes(
    tree: Daemon, method: str, path: str, scope: str, given: str
) -> None:
    async with http_of(tree, **bearer(SIGNER.token(given))) as http:
        async with http.session.request(method, path, data=b"x" if method == "PUT" else None) as response:
            text = await response.text() if response.status >= 400 else ""
    assert (response.status == 403) == (given != scope), text
    assert (needs(scope) in text) == (given != scope)
    assert (tree.root / "src/a.txt").exists() or (given, method) == ("write", "DELETE")


async def test_a_token_for_nothing_opens_the_doors_and_nothing_behind_them(daemon: Daemon) -> None:
    async with http_of(daemon, **bearer(SIGNER.token(port=4321))) as http:
        async with http.session.get("/") as response:
            assert response.status == 200
        refusal = await http.refused("list")
    assert refusal.message == "list needs the scope 'read'; this token has none"


class TestADirectory:
    """Tokens for ``src`` and what is below it."""

    @pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - CONFINED))
    async def test_what_reaches_everything_is_refused(self, tree: Daemon, name: str) -> None:
        async with http_of(tree, **bearer(SIGNER.token(*ALL, path="src"))) as http:
            refusal = await http.refused(name, **FORMED.get(name, {}))
        assert (refusal.status, refusal.code) == (403, "forbidden")
        assert refusal.message == f"{name} reaches the whole workspace, and this token is for 'src' alone"

    async def test_what_is_within_goes_well(self, tree: Daemon) -> None:
        async with socket_of(tree, **bearer(SIGNER.token(*ALL, path="src"))) as socket:
            assert (await socket.ok("read", path="src/a.txt"))["content"] == "needle\n"
            assert (await socket.ok("read", path="/app/src/in/b.txt"))["content"] == "needle\n"
            assert (await socket.ok("read", path="src/whole"))["content"] == "needle\n"
            assert [each["path"] for each in (await socket.ok("list", path="src/deep"))["entries"]] == [
                "src/deep/b.txt"
            ]
            assert (await socket.ok("stat", path="src"))["kind"] == "directory"
            await socket.ok("write", path="src/new/x.txt", content="one\n")
            await socket.ok("edit", path="src/new/x.txt", oldText="one", newText="two")
            await socket.ok("mkdir", path="src/made")
            await socket.ok("move", path="src/new/x.txt", to="src/made/x.txt")
            await socket.ok("copy", path="src/made/x.txt", to="src/made/y.txt")
            await socket.ok("chmod", path="src/made/y.txt", mode=0o600)
            await socket.ok("replace", pattern="two", replacement="three", path="src")
            await socket.ok("remove", path="src/made/y.txt")
            assert "number" in await socket.ok("watch", paths=["src"], timeoutMs=0)
        async with http_of(tree, **bearer(SIGNER.token("read", path="src"))) as http:
            found = await http.ok("search", pattern="needle", path="src")
            assert {each["path"] for each in found["matches"]} == {"src/a.txt", "src/deep/b.txt"}
            found = await http.ok("search", pattern="txt", path="src", **{"in": "names"})
            assert {each["path"] for each in found["matches"]} >= {"src/a.txt", "src/made/x.txt"}
            assert not {each["path"] for each in found["matches"]} & {"secret.txt", "srcs/c.txt"}
        assert (tree.root / "src/made/x.txt").read_text() == "three\n"

    OUTSIDE: tuple[tuple[str, Json], ...] = (
        ("read", {"path": "secret.txt"}),
        ("read", {"path": "src/../secret.txt"}),
        ("read", {"path": "/app/secret.txt"}),
        ("read", {"path": "srcs/c.txt"}),
        ("read", {"path": "alias/a.txt"}),
        ("read", {"path": "src/out"}),
        ("read", {"path": "src/far"}),
        ("list", {}),
        ("list", {"path": "."}),
        ("stat", {"path": "secret.txt"}),
        ("stat", {"path": "."}),
        ("write", {"path": "x.txt", "content": ""}),
        ("write", {"path": "src/out", "content": "x"}),
        ("mkdir", {"path": "made"}),
        ("move", {"path": "src/a.txt", "to": "a.txt"}),
        ("move", {"path": "secret.txt", "to": "src/s.txt"}),
        ("move", {"path": "src", "to": "moved"}),
        ("copy", {"path": "secret.txt", "to": "src/s.txt"}),
        ("copy", {"path": "src/a.txt", "to": "srcs/a.txt"}),
        ("remove", {"path": "secret.txt"}),
        ("remove", {"path": "src", "recursive": True}),
        ("chmod", {"path": "secret.txt", "mode": 0o777}),
        ("chmod", {"path": "src/out", "mode": 0o777}),
        ("search", {"pattern": "needle"}),
        ("search", {"pattern": "needle", "path": "srcs"}),
        ("search", {"pattern": "secret", "in": "names"}),
        ("replace", {"pattern": "needle", "replacement": "x"}),
        ("edit", {"path": "secret.txt", "oldText": "needle", "newText": "x"}),
        ("edit", {"path": "src/out", "oldText": "needle", "newText": "x"}),
        (
            "edit",
            {"patch": "--- a/secret.txt\n+++ b/secret.txt\n@@ -1 +1 @@\n-needle\n+x\n"},
        ),
        ("watch", {"timeoutMs": 0}),
        ("watch", {"paths": ["src", "srcs"], "timeoutMs": 0}),
    )

    @pytest.mark.parametrize(("name", "params"), OUTSIDE)
    async def test_what_is_not_is_refused_and_left_as_it_is(
        self, tree: Daemon, name: str, params: Json
    ) -> None:
        before = sorted(str(each) for each in tree.root.rglob("*"))
        async with http_of(tree, **bearer(SIGNER.token(*ALL, path="src"))) as http:
            refusal = await http.refused(name, **params)
        assert refusal.code in ("forbidden", "outside_workspace"), refusal
        assert (tree.root / "secret.txt").read_text() == "needle\n"
        assert (tree.root / "secret.txt").stat().st_mode & 0o777 != 0o777
        assert sorted(str(each) for each in tree.root.rglob("*")) == before

    async def test_what_is_changed_within_can_be_undone_by_who_may(self, tree: Daemon) -> None:
        async with http_of(tree, **bearer(SIGNER.token(*ALL, path="src"))) as http:
            await http.ok("edit", path="src/a.txt", oldText="needle", newText="x")
            await http.ok("remove", path="src/deep", recursive=True)
            assert (await http.refused("undo")).code == "forbidden"
        async with http_of(tree, **bearer(SIGNER.token(*ALL))) as http:
            for _ in range(2):
                await http.ok("undo")
        assert (tree.root / "src/a.txt").read_text() == "needle\n"
        assert (tree.root / "src/deep/b.txt").read_text() == "needle\n"

    async def test_what_is_ignored_stays_so_for_all_whoever_looks_first(self, tree: Daemon) -> None:
        (tree.root / ".gitignore").write_text("*.log\n")
        for name in ("a.log", "src/b.log"):
            (tree.root / name).write_text("")
        for path in ("src", "."):
            async with http_of(tree, **bearer(SIGNER.token("read", path=path))) as http:
                found = await http.ok("search", pattern=".", path=path, **{"in": "names"})
                assert not [each["path"] for each in found["matches"] if each["path"].endswith(".log")]
                listed = await http.ok("list", path=path, depth=3, gitignore=True)
                assert not [each["path"] for each in listed["entries"] if each["path"].endswith(".log")]

    async def test_what_is_many_at_once_is_refused_one_by_one(self, tree: Daemon) -> None:
        async with http_of(tree, **bearer(SIGNER.token("read", path="src"))) as http:
            told = await http.ok("read_many", files=[{"path": "src/a.txt"}, {"path": "secret.txt"}])
        first, second = told["files"]
        assert first["file"]["content"] == "needle\n"
        assert second["error"]["code"] == "forbidden"

    async def test_the_raw_door_is_held_too(self, tree: Daemon) -> None:
        async with http_of(tree, **bearer(SIGNER.token(*ALL, path="src"))) as http:
            for method, path, status in (
                ("GET", "/v1/files/src/a.txt", 200),
                ("PUT", "/v1/files/src/new.txt", 201),
                ("GET", "/v1/files/secret.txt", 403),
                ("GET", "/v1/files/src/out", 403),
                ("PUT", "/v1/files/new.txt", 403),
                ("DELETE", "/v1/files/secret.txt", 403),
                ("GET", "/v1/archive", 403),
            ):
                data = b"x" if method == "PUT" else None
                async with http.session.request(method, path, data=data) as response:
                    assert response.status == status, (method, path, await response.text())
        assert (tree.root / "secret.txt").read_text() == "needle\n"

    async def test_the_next_request_on_the_same_connection_is_not_held(self, tree: Daemon) -> None:
        async with http_of(tree) as http:
            for path in ("src", ".", "src", "."):
                token = SIGNER.token("read", path=path)
                async with http.session.post("/v1/list", json={}, headers=bearer(token)) as response:
                    assert response.status == (200 if path == "." else 403)
