"""An install that need not happen: what a person sees of the dependency store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.builder import Daemon, Http, Json, emptied, http_of, running, tree_of, until
from tests.ports import free_port

FAKE_NPM = """#!/bin/sh
echo "npm $*" >> "$RAN"
[ -e fails ] && exit 1
mkdir -p node_modules/left/deep node_modules/.bin
cat package-lock.json > node_modules/left/deep/index.js
head -c 70000 /dev/urandom > node_modules/left/large
ln -sf ../left/deep/index.js node_modules/.bin/left
[ -e other-lock ] && mv other-lock package-lock.json
[ -e index.html ] && echo "serving"
exit 0
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Daemon]:
    """A daemon whose owner has a store without spare trees."""
    options = {"TOOL_SERVER_STORE_DIR": str(store), "TOOL_SERVER_STORE_DELAY_MS": "1"}
    options["TOOL_SERVER_MAX_SPARES"] = "0"
    with running(tmp_path_factory.mktemp("daemon"), DEV_SERVER_PORT=str(free_port()), **options) as daemon:
        yield daemon


@pytest.fixture
def ran(root: Path) -> Path:
    """What npm was asked, line by line."""
    ran = root.parent / "ran"
    ran.write_text("")
    return ran


@pytest.fixture
def env(root: Path, ran: Path) -> Json:
    """Variables with which ``npm`` installs two files."""
    tools = root.parent / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in {"npm": FAKE_NPM, "node": "#!/bin/sh\necho v24.1.0\n"}.items():
        if not (tools / name).exists():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}", "RAN": str(ran), "HOME": str(root.parent)}


def project(root: Path, lock: str, package: str = '{"dependencies": {"left": "1"}}') -> None:
    emptied(root)
    (root / "package.json").write_text(package)
    (root / "package-lock.json").write_text(lock)


async def kept(http: Http, root: Path, store: Path, lock: str, env: Json) -> str:
    """The key of what was installed for this lock file, once the store has it."""
    project(root, lock)
    use = (await http.ok("install", env=env))["store"]
    assert use["outcome"] == "miss"
    await until((store / f"{use['key']}.pack").exists)
    return str(use["key"])


async def test_what_was_installed_once_is_not_installed_again(
    http: Http, root: Path, store: Path, env: Json, ran: Path
) -> None:
    key = await kept(http, root, store, "first", env)
    before = tree_of(root)
    project(root, "first")
    ran.write_text("")
    *frames, last = await http.stream("install", env=env)
    answer = last["result"]
    assert (answer["packageManager"], answer["command"]) == ("npm", None)
    use = answer["store"]
    assert (use["outcome"], use["key"], use["layer"], use["files"]) == ("hit", key, "own", 2)
    assert use["means"] in {"parallel copy", "shared blocks"}
    told = "".join(frame["event"]["text"] for frame in frames)
    assert told.startswith(
        f"packages taken from the own dependency store by {use['means']}: 2 files, 0.1 MiB"
    )
    assert ran.read_text() == ""
    assert tree_of(root) == before


async def test_of_installs_right_after_each_other_the_last_is_kept(env: Json, tmp_path: Path) -> None:
    store = tmp_path / "store"
    options = {"TOOL_SERVER_STORE_DIR": str(store), "TOOL_SERVER_STORE_DELAY_MS": "300"}
    with running(tmp_path / "one", **options) as daemon:
        async with http_of(daemon) as http:
            keys = []
            for lock in ("one", "two", "three"):
                project(daemon.root, lock)
                keys.append((await http.ok("install", env=env))["store"]["key"])
            await until((store / f"{keys[-1]}.pack").exists)


def told_of_means(daemon: Daemon) -> bool:
    return any(line["message"] == "means of the dependency store" for line in daemon.log())


async def test_the_next_workspace_finds_a_spare_tree(env: Json, ran: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    options = {"TOOL_SERVER_STORE_DIR": str(store), "TOOL_SERVER_STORE_DELAY_MS": "1"}
    trees: list[dict[str, bytes | str | None]] = []
    for name in ("one", "two", "three"):
        with running(tmp_path / name, **options) as daemon:
            await until(partial(told_of_means, daemon))
            project(daemon.root, "spare")
            async with http_of(daemon) as http:
                *frames, last = await http.stream("install", env=env)
                use = last["result"]["store"]
                async with http.session.get("/metrics") as response:
                    metrics = await response.text()
                await until(lambda: any(store.glob("spares/[0-9a-f]*-*")))
            trees.append(tree_of(daemon.root))
            if name != "one":
                assert (use["outcome"], use["means"], use["files"]) == ("hit", "spare tree", 2)
                assert '{means="spare tree",store="own"} 1' in metrics
                told = "".join(frame["event"]["text"] for frame in frames)
                assert told.startswith("packages taken from the own dependency store by spare tree: 2 files")
    assert ran.read_text() == "npm ci --no-audit --no-fund --prefer-offline\n"
    assert trees[0] == trees[1] == trees[2]


async def test_a_tree_given_for_other_packages_is_removed(env: Json, tmp_path: Path) -> None:
    store = tmp_path / "store"
    options = {"TOOL_SERVER_STORE_DIR": str(store), "TOOL_SERVER_STORE_DELAY_MS": "1"}
    with running(tmp_path / "one", **options, TOOL_SERVER_STATE_DIR=str(tmp_path / "state")) as daemon:
        given = tmp_path / "state/spares" / f"{'b' * 64}-12"
        (given / "other").mkdir(parents=True)
        project(daemon.root, "given")
        async with http_of(daemon) as http:
            assert (await http.ok("install", env=env))["store"]["outcome"] == "miss"
            await until(lambda: not list(given.parent.iterdir()))
        assert not (daemon.root / "node_modules/other").exists()


async def test_what_installs_differently_is_another_key(
    http: Http, root: Path, store: Path, env: Json
) -> None:
    keys = [await kept(http, root, store, "same", env)]
    project(root, "same")
    keys.append((await http.ok("install", env={**env, "NODE_ENV": "production"}))["store"]["key"])
    project(root, "other")
    keys.append((await http.ok("install", env=env))["store"]["key"])
    project(root, "same", '{"dependencies": {"left": "2"}}')
    keys.append((await http.ok("install", env=env))["store"]["key"])
    project(root, "same")
    (root / ".npmrc").write_text("omit=dev")
    keys.append((await http.ok("install", env=env))["store"]["key"])
    assert len(set(keys)) == 5


async def test_packages_are_not_known_by_a_lock_file_that_came_after_them(
    http: Http, root: Path, store: Path, env: Json, daemon: Daemon
) -> None:
    project(root, "benign")
    (root / "package-lock.json").rename(root / "other-lock")
    (root / "package-lock.json").write_text("evil")
    assert (await http.ok("install", env=env))["store"]["outcome"] == "miss"
    told = "what they are known by was changed"
    await until(lambda: any(line.get("reason") == told for line in daemon.log()))
    project(root, "benign")
    assert (await http.ok("install", env=env))["store"]["outcome"] == "miss"
    assert (root / "node_modules/left/deep/index.js").read_text() == "benign"


async def test_a_corrupt_pack_is_told_and_a_real_install_happens(
    http: Http, root: Path, store: Path, env: Json, ran: Path
) -> None:
    key = await kept(http, root, store, "spoilt", env)
    pack = store / f"{key}.pack"
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.write(b"evil")
    project(root, "spoilt")
    ran.write_text("")
    *frames, last = await http.stream("install", env=env)
    use = last["result"]["store"]
    assert use["outcome"] == "miss"
    text = "".join(frame["event"]["text"] for frame in frames)
    assert text.startswith(f"dependency store: {use['reason']}\n")
    assert text.startswith("dependency store: a pack of the own store was removed, for the contents of left/")
    assert ran.read_text() == "npm ci --no-audit --no-fund --prefer-offline\n"
    assert (root / "node_modules/left/deep/index.js").read_text() == "spoilt"
    await until(pack.exists)


async def test_a_store_that_is_a_file_is_told_with_the_way_out(env: Json, tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.write_text("mine")
    with running(tmp_path / "one", TOOL_SERVER_STORE_DIR=str(place)) as daemon:
        project(daemon.root, "file")
        async with http_of(daemon) as http:
            *frames, last = await http.stream("install", env=env)
        wanted = (
            f"the own store at {place} is no directory; remove what is there, "
            "or name another place in TOOL_SERVER_STORE_DIR"
        )
        use = last["result"]["store"]
        assert (use["outcome"], use["reason"]) == ("miss", wanted)
        assert f"dependency store: {wanted}\n" in [frame["event"]["text"] for frame in frames]
        await until(lambda: any(line.get("complaint") == wanted for line in daemon.log()))
    assert place.read_text() == "mine"


async def test_a_damaged_note_is_told_and_never_believed(env: Json, tmp_path: Path) -> None:
    store = tmp_path / "store"
    keys = []
    for name in ("one", "two", "three"):
        with running(tmp_path / name, TOOL_SERVER_STORE_DIR=str(store)) as daemon:
            project(daemon.root, "note")
            async with http_of(daemon) as http:
                *frames, last = await http.stream("install", env=env)
        keys.append(last["result"]["store"]["key"])
        text = "".join(frame["event"]["text"] for frame in frames)
        damaged = "a note of the own store was damaged; what it said is found out anew\n"
        assert (damaged in text) == (name == "two")
        if name == "one":
            (note,) = store.glob("*.note")
            note.write_bytes(note.read_bytes().replace(b"v24.1.0", b"v22.9.0"))
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    ("package", "request_", "reason"),
    [
        ('{"scripts": {"prepare": "x"}}', {}, "its own script 'prepare' has to run"),
        ('{"workspaces": ["a"]}', {}, "it has workspaces, each with packages of its own"),
        ('{"dependencies": {"a": "./a"}}', {}, "'a' comes from a directory, whose content may change"),
        ("{}", {"store": False}, "the request says so"),
        ("{}", {"command": "npm ci"}, "a command of its own installs"),
    ],
)
async def test_what_is_not_kept_is_told_why(
    http: Http, root: Path, env: Json, package: str, request_: Json, reason: str
) -> None:
    project(root, "x", package)
    use = (await http.ok("install", env=env, **request_))["store"]
    assert (use["outcome"], use["reason"]) == ("off", reason)


async def test_a_failed_install_keeps_nothing(http: Http, root: Path, store: Path, env: Json) -> None:
    # Once this is kept, nothing of earlier installs is on its way into the store.
    await kept(http, root, store, "before it fails", env)
    before = sorted(store.iterdir())
    project(root, "fails")
    (root / "fails").touch()
    assert (await http.refused("install", env=env)).code == "install_failed"
    assert sorted(store.iterdir()) == before


async def test_what_is_installed_can_be_packed_for_the_host(
    http: Http, root: Path, store: Path, env: Json, tmp_path: Path
) -> None:
    key = await kept(http, root, store, "packed", env)
    answer = await http.ok("install", env=env, command="", packTo="out.pack")
    assert (answer["store"]["key"], answer["store"]["files"]) == (key, 2)
    shared = tmp_path / "shared"
    shared.mkdir()
    (root / "out.pack").rename(shared / f"{key}.pack")
    (shared / f"{key}.pack").chmod(0o444)
    with running(tmp_path / "other", TOOL_SERVER_SHARED_STORE=f"/nowhere:{shared}") as other:
        project(other.root, "packed")
        async with http_of(other) as second:
            use = (await second.ok("install", env=env))["store"]
            assert (use["outcome"], use["layer"]) == ("hit", "shared")
            assert (
                await second.refused("install", env=env, command="", packTo="package.json")
            ).code == "conflict"
    assert tree_of(other.root)["node_modules/left/deep/index.js"] == b"packed"


@pytest.mark.parametrize(
    ("lock", "fix"),
    [
        (
            "pnpm-lock.yaml",
            "install it by `npm install -g pnpm`, or switch corepack on by `corepack enable pnpm`",
        ),
        ("bun.lock", "install it by `npm install -g bun`"),
    ],
)
async def test_a_missing_package_manager_is_told_with_the_way_to_get_it(
    http: Http, root: Path, lock: str, fix: str
) -> None:
    emptied(root)
    (root / "package.json").write_text("{}")
    (root / lock).touch()
    refused = await http.refused("install", env={"PATH": "/usr/bin:/bin"})
    assert refused.code == "install_failed"
    assert "command not found" in refused.message
    assert refused.message.endswith(f"; {fix}")
