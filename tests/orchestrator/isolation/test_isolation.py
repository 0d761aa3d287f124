"""What a backend asks of isolation: who is refused, what the launcher is told, whose the files are."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.directories import private_directory, remove_tree
from orchestrator.isolation import identity, probe, reach
from orchestrator.isolation.isolation import Isolation, Setting
from orchestrator.isolation.sandbox import Sandbox, Settled
from orchestrator.isolation.tiers import Facts, Network, Tier, Wish
from orchestrator.paths import PathManager
from protocol.errors import InvalidRequest, Unavailable

LANDLOCK = Tier(landlock=7, filter=True)
NETWORK = Tier(landlock=7, filter=True, network=True)
FACTS = probe.look([], Path("/"))
DAEMON = ("/usr/bin/daemon", "--flag")


def isolation(
    data: Path,
    tier: Tier = LANDLOCK,
    setting: Setting | None = None,
    environ: Mapping[str, str] | None = None,
    facts: Facts | None = None,
) -> Isolation:
    return Isolation(tier, facts or Facts(), setting or Setting(), PathManager(data), environ or {}, ())


def sandbox(
    data: Path, person: str = "ann", ports: tuple[int, ...] = (0, 8000), session: str = "s1"
) -> Sandbox:
    paths = PathManager(data)
    area = paths.session_area(person, session)
    root = paths.workspace_dir(person, session)
    for directory in (root, *area.directories):
        private_directory(directory)
    return Sandbox(person, root, area, paths.cache_dir(person, "npm").parent, ports)


def told(command: tuple[str, ...], name: str) -> list[str]:
    """The values of one of the launcher's words."""
    words = command[4 : command.index("--")]
    return [value for word, value in zip(words[::2], words[1::2], strict=True) if word == name]


def test_the_daemon_is_started_as_it_is_where_nothing_is_isolated(tmp_path: Path) -> None:
    settled = Settled(sandbox(tmp_path), None, tmp_path)
    assert isolation(tmp_path, Tier()).command(settled, DAEMON) == DAEMON


def test_the_launcher_comes_first_and_ends_as_the_daemon(tmp_path: Path) -> None:
    it = isolation(tmp_path)
    command = it.command(it.settle(sandbox(tmp_path)), DAEMON)
    assert command[:3] == (sys.executable, "-I", "-S")
    assert command[-3:] == ("--", *DAEMON)


def test_only_its_own_directories_can_be_written(tmp_path: Path) -> None:
    it = isolation(tmp_path / "data")
    place = sandbox(tmp_path / "data")
    area = place.area
    own = {place.root, area.home, area.temporary, area.state, place.cache}
    assert {*map(Path, told(it.command(it.settle(place), DAEMON), "write"))} == own


def test_a_readable_directory_is_never_one_that_holds_the_data(tmp_path: Path) -> None:
    data = tmp_path / "project" / "data"
    (tmp_path / "project" / "code").mkdir(parents=True)
    place = sandbox(data)
    it = Isolation(LANDLOCK, Facts(), Setting(), PathManager(data), {}, (tmp_path / "project",))
    readable = [*map(Path, told(it.command(it.settle(place), DAEMON), "read"))]
    assert (tmp_path / "project" / "code") in readable
    assert not any(data.is_relative_to(path) for path in readable)
    shared = [data / "cache" / name for name in (".tools", ".store")]
    assert [path for path in readable if path.is_relative_to(data)] == shared


def test_ports_are_its_own_any_free_one_and_those_that_lead_outside(tmp_path: Path) -> None:
    it = isolation(
        tmp_path, environ={"https_proxy": "http://proxy:3128", "npm_config_registry": "http://r:4873"}
    )
    command = it.command(it.settle(sandbox(tmp_path, ports=(9000, 8000))), DAEMON)
    assert sorted(map(int, told(command, "bind"))) == [0, 8000, 9000]
    assert sorted(map(int, told(command, "connect"))) == [22, 53, 80, 443, 3128, 4873, 8000, 9000, 9418]


def test_a_port_that_everybody_may_connect_to_is_nobodys_to_listen_on(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="every workspace may connect to port 443, so none may listen"):
        isolation(tmp_path).refuse_ports((0, 443))
    isolation(tmp_path, Tier()).refuse_ports((0, 443))
    isolation(tmp_path).refuse_ports((0, 8000))


@pytest.mark.parametrize("tier", [Tier(), Tier(landlock=7, filter=True, root=True), Tier(landlock=5)])
def test_company_is_refused_where_nothing_keeps_users_apart(tmp_path: Path, tier: Tier) -> None:
    sandbox(tmp_path, "bob")
    with pytest.raises(
        Unavailable, match=r"holds workspaces of another user, .* WORKSPACE_ALLOW_SEVERAL_USERS=1"
    ):
        isolation(tmp_path, tier, facts=Facts(abi=5)).refuse_company("ann")


def test_company_is_taken_where_it_is_kept_apart_or_was_allowed(tmp_path: Path) -> None:
    sandbox(tmp_path, "bob")
    isolation(tmp_path).refuse_company("ann")
    isolation(tmp_path, Tier(), Setting(Wish.NONE, allow_several_users=True)).refuse_company("ann")


def test_ones_own_workspaces_are_no_company_and_neither_is_an_empty_directory(tmp_path: Path) -> None:
    sandbox(tmp_path, "ann")
    (tmp_path / "workspaces" / "bob").mkdir()
    isolation(tmp_path, Tier()).refuse_company("ann")


def test_a_path_keeps_what_can_be_run(tmp_path: Path) -> None:
    path = f"{tmp_path}/cache/.tools:/usr/bin:/home/u/bin:/bin"
    assert isolation(tmp_path).search_path(path) == f"{tmp_path}/cache/.tools:/usr/bin:/bin"
    assert isolation(tmp_path, Tier()).search_path(path) == path


def test_settings_come_from_the_environment() -> None:
    environ = {"WORKSPACE_ISOLATION": "landlock", "WORKSPACE_ALLOW_SEVERAL_USERS": "1"}
    assert Setting.from_env(environ) == Setting(Wish.LANDLOCK, allow_several_users=True)
    assert Setting.from_env({}) == Setting(Wish.AUTO)
    more = {"WORKSPACE_NETWORK": "shared", "WORKSPACE_ONE_USER": "yes"}
    assert Setting.from_env(more) == Setting(network=Network.SHARED, one_user=True)
    with pytest.raises(InvalidRequest, match="it has to be one of auto, landlock, bwrap, none"):
        Setting.from_env({"WORKSPACE_ISOLATION": "docker"})
    with pytest.raises(InvalidRequest, match=r"WORKSPACE_NETWORK is 'none'; .* one of auto, own, shared"):
        Setting.from_env({"WORKSPACE_NETWORK": "none"})


def test_a_network_of_its_own_publishes_its_ports_and_borrows_those_of_the_hosts_loopback(
    tmp_path: Path,
) -> None:
    environ = {"https_proxy": "http://127.0.0.1:3128", "WORKSPACE_HOST_PORTS": "5432"}
    it = isolation(tmp_path, NETWORK, environ=environ)
    command = it.command(it.settle(sandbox(tmp_path, ports=(9000, 8000))), DAEMON)
    assert [told(command, name) for name in ("listen", "publish", "borrow", "bind", "connect")] == [
        ["9000"],
        ["8000"],
        ["3128", "5432"],
        [],
        [],
    ]


@pytest.mark.parametrize(("server", "asked"), [("127.0.0.53", ["169.254.1.1"]), ("10.0.0.1", [])])
def test_a_resolver_on_the_hosts_loopback_is_asked_through_the_network_helper(
    server: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tmp_path / "resolv.conf"
    host.write_text(f"nameserver {server}\nsearch example.org\n")
    monkeypatch.setattr(reach, "RESOLVER", str(host))
    it = isolation(tmp_path / "data", NETWORK)
    command = it.command(it.settle(sandbox(tmp_path / "data")), DAEMON)
    assert told(command, "forward") == asked
    shown = [Path(path).read_text() for path in told(command, "resolver")]
    assert shown == [f"nameserver {each}\nsearch example.org\n" for each in asked]


def test_where_ports_are_ones_own_only_borrowed_ones_are_taken(tmp_path: Path) -> None:
    it = isolation(tmp_path, NETWORK, environ={"WORKSPACE_HOST_PORTS": "5432"})
    it.refuse_ports((443, 8000))
    with pytest.raises(InvalidRequest, match="every workspace may connect to port 5432"):
        it.refuse_ports((5432,))


def test_bubblewrap_stands_between_the_network_and_the_rules(tmp_path: Path) -> None:
    it = isolation(tmp_path, Tier(landlock=7, filter=True, network=True, bwrap=True))
    place = sandbox(tmp_path)
    command = it.command(it.settle(place), DAEMON)
    assert [told(command, name) != [] for name in ("network", "inform", "landlock")] == [True, True, False]
    wrapped = command[command.index("--") + 1 :]
    assert wrapped[0].endswith("bwrap")
    inner = wrapped[wrapped.index("--") + 1 :]
    assert inner[-2:] == DAEMON
    assert [told(inner, name) != [] for name in ("network", "landlock", "filter")] == [False, True, True]
    assert "--die-with-parent" not in wrapped
    assert it.leader(place.area) is None
    (place.area.directory / "bwrap.json").write_text('{"child-pid": 7, "net-namespace": 1}')
    assert it.leader(place.area) == 7


@pytest.mark.skipif(bool(FACTS.no_network), reason=FACTS.no_network)
def test_a_trial_says_whether_a_network_works_and_why_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.isolation.isolation._TRIAL_SECONDS", 100.0)  # of a busy machine
    it = isolation(tmp_path, NETWORK)
    assert it.network_trial() == ""
    monkeypatch.setattr(probe, "pasta", lambda: "/bin/false")
    assert "no network of its own: pasta says 'nothing'" in it.network_trial()


def test_one_user_keeps_company_out_whoever_comes_first(tmp_path: Path) -> None:
    alone = isolation(tmp_path, Tier(landlock=7, filter=True, any_port=True), Setting(one_user=True))
    ann = sandbox(tmp_path, "ann")
    alone.refuse_company("ann", ann.area)
    bob = sandbox(tmp_path, "bob")
    with pytest.raises(Unavailable, match=r"of another user, .* WORKSPACE_ONE_USER=1 was asked for"):
        alone.refuse_company("ann", ann.area)
    with pytest.raises(
        Unavailable, match=r"runs here with WORKSPACE_ONE_USER=1, .* by `workspace down` first"
    ):
        isolation(tmp_path).refuse_company("bob", bob.area)
    remove_tree(ann.area.directory)
    isolation(tmp_path).refuse_company("bob", bob.area)


root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")


@root_only
def test_a_session_owns_what_it_writes_and_not_what_the_backend_reads(tmp_path: Path) -> None:
    it = isolation(tmp_path, Tier(landlock=7, users=True))
    place = sandbox(tmp_path)
    whom = it.settle(place).identity
    assert whom is not None
    area = place.area
    owners = {path: path.stat().st_uid for path in (place.root, *area.directories)}
    assert owners == {
        place.root: whom.uid,
        area.directory: 0,
        area.home: whom.uid,
        area.temporary: whom.uid,
        area.state: whom.uid,
    }
    modes = {
        stat.S_IMODE(path.stat().st_mode) for path in (place.root, area.home, area.temporary, area.state)
    }
    assert modes == {0o700}
    assert stat.S_IMODE(area.directory.stat().st_mode) == 0o710


@root_only
def test_others_may_pass_the_directories_above_and_not_list_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    isolation(data, Tier(landlock=7, users=True)).settle(sandbox(data))
    above = [data, data / "workspaces", data / "workspaces" / "ann", data / "cache"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in above} == {0o711}


@root_only
def test_two_sessions_of_one_person_are_two_users_in_one_group(tmp_path: Path) -> None:
    it = isolation(tmp_path, Tier(landlock=7, users=True))
    first, second = (it.settle(sandbox(tmp_path, session=each)).identity for each in ("s1", "s2"))
    assert first is not None
    assert second is not None
    assert first.uid != second.uid
    assert first.person == second.person


@root_only
def test_a_cache_of_before_is_emptied_when_it_gets_its_group(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "old").write_text("x")
    assert identity.share(cache, identity.group_of("ann"))
    (cache / "new").write_text("x")
    assert identity.share(cache, identity.group_of("ann"))
    assert [path.name for path in cache.iterdir()] == ["new"]
    assert stat.S_IMODE((cache / "new").stat().st_mode) & 0o070 == 0o060
