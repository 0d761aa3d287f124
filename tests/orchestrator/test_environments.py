"""Where the data lies, by where this program runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.environments import (
    DEVELOPMENT,
    ENVIRONMENTS,
    PHALA,
    RENDER,
    Environment,
    PersistentPathManager,
    environment_of,
)
from orchestrator.paths import PathManager
from protocol.errors import InvalidRequest

CWD = Path("/cwd")


@pytest.mark.parametrize(
    ("environ", "environment", "data"),
    [
        ({}, DEVELOPMENT, "/cwd/data"),
        ({"RENDER": "true"}, RENDER, "/app/data"),
        ({"PHALA_DEPLOYMENT": "true"}, PHALA, "/app/data"),
        ({"PHALA_DEPLOYMENT": "True "}, PHALA, "/app/data"),
        ({"PHALA_DEPLOYMENT": "1"}, PHALA, "/app/data"),
        ({"PHALA_DEPLOYMENT": "false"}, DEVELOPMENT, "/cwd/data"),
        ({"PHALA_DEPLOYMENT": ""}, DEVELOPMENT, "/cwd/data"),
        ({"PHALA_DEPLOYMENT": "true", "RENDER": "true"}, PHALA, "/app/data"),
        # DATA_DIR wins everywhere, and moves the data only.
        ({"DATA_DIR": "/srv/d"}, DEVELOPMENT, "/srv/d"),
        ({"DATA_DIR": "rel"}, DEVELOPMENT, "/cwd/rel"),
        ({"DATA_DIR": ""}, DEVELOPMENT, "/cwd/data"),
        ({"RENDER": "true", "DATA_DIR": "/var/data"}, RENDER, "/var/data"),
        ({"PHALA_DEPLOYMENT": "true", "DATA_DIR": "/mnt/d"}, PHALA, "/mnt/d"),
    ],
)
def test_every_environment_has_its_data_directory(
    environ: dict[str, str], environment: Environment, data: str
) -> None:
    paths = PersistentPathManager.from_env(environ, CWD)
    assert (paths.environment, paths.base_dir) == (environment, Path(data))
    assert paths.is_phala is (environment is PHALA)


def test_an_option_wins_over_everything() -> None:
    environ = {"PHALA_DEPLOYMENT": "true", "DATA_DIR": "/srv/d"}
    assert PersistentPathManager.from_env(environ, CWD, Path("mine")).base_dir == Path("/cwd/mine")


def test_some_environment_always_fits() -> None:
    assert ENVIRONMENTS[-1].variable is None
    assert environment_of({"UNRELATED": "true"}) is DEVELOPMENT


def test_it_gives_the_paths_that_the_path_manager_gives() -> None:
    paths = PersistentPathManager.from_env({"DATA_DIR": "/srv/d"}, CWD)
    plain = PathManager(Path("/srv/d"))
    assert paths.workspace_dir("ann", "s1") == plain.workspace_dir("ann", "s1")
    assert paths.session_dir("s1", "ann") == plain.workspace_dir("ann", "s1")
    assert paths.session_dir("s1") == plain.workspace_dir("default", "s1")


@pytest.mark.parametrize("bad", ["", "..", "../../etc", "/etc", "a\0"])
def test_a_bad_id_has_no_session_directory(bad: str) -> None:
    paths = PersistentPathManager(Path("/d"))
    for session, user in ((bad, "u"), ("s", bad), (bad, None)):
        with pytest.raises(InvalidRequest):
            paths.session_dir(session, user)


def test_the_configuration_tells_what_is_there_and_makes_nothing(tmp_path: Path) -> None:
    paths = PersistentPathManager.from_env({"PHALA_DEPLOYMENT": "true"}, tmp_path, Path("d"))
    told = paths.get_config()
    assert told["exists"] == dict.fromkeys(("base", "db", "workspaces", "saves", "logs", "cache"), False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "d" / "logs").mkdir(parents=True)
    told = paths.get_config()
    assert [name for name, there in told["exists"].items() if there] == ["base", "logs"]
    assert (told["is_phala"], told["environment"], told["base_dir"]) == (True, "phala", str(tmp_path / "d"))
    assert told["workspaces_dir"] == str(tmp_path / "d" / "workspaces")
    assert (Path(told["code_dir"]) / "orchestrator" / "environments.py").is_file()
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("environ", "mounts", "warned"),
    [
        ({"RENDER": "true"}, ["/"], True),
        ({"RENDER": "true"}, ["/", "/app/data"], False),
        ({"RENDER": "true", "DATA_DIR": "/var/data/x"}, ["/", "/var/data"], False),
        ({"RENDER": "true", "DATA_DIR": "/tmp/d"}, ["/", "/var/data"], True),
        ({}, ["/"], False),
        ({"PHALA_DEPLOYMENT": "true"}, ["/"], False),
    ],
)
def test_data_that_the_next_deploy_loses_is_warned_of(
    environ: dict[str, str], mounts: list[str], warned: bool
) -> None:
    paths = PersistentPathManager.from_env(environ, CWD)
    warning = paths.warning(lambda path: str(path) in mounts)
    assert (warning is not None) is warned
    if warning:
        assert warning.endswith("mount a disk there, or set DATA_DIR to a directory on one")
