"""From ids to paths."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.paths import PathManager, new_session_id, session_id, user_id
from protocol.errors import InvalidRequest

PATHS = PathManager(Path("/d"))
BAD_IDS = ["", ".", "..", ".x", "../../etc", "/etc", "a/b", "a\0b", "a b", "é", "a\n", "x" * 129]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_a_bad_id_is_refused_wherever_it_would_become_a_path(bad: str) -> None:
    for make in (user_id, session_id, PATHS.db_path, PATHS.user_workspace_root):
        with pytest.raises(InvalidRequest):
            make(bad)
    for of_both in (PATHS.workspace_dir, PATHS.session_area, PATHS.saves_dir, PATHS.log_path):
        with pytest.raises(InvalidRequest):
            of_both(bad, "s")
        with pytest.raises(InvalidRequest):
            of_both("u", bad)


@given(user=st.text(max_size=20), session=st.text(max_size=20))
def test_no_pair_of_ids_leads_out_of_the_data_directory(user: str, session: str) -> None:
    try:
        path = PATHS.workspace_dir(user, session)
    except InvalidRequest:
        return
    assert path.parent.parent == Path("/d/workspaces")
    assert (path.parent.name, path.name) == (user, session)


@pytest.mark.parametrize("good", ["a", "A-Z.9_", "-", "x" * 128, "session_20261121_093405_010203ff"])
def test_a_good_id_is_taken_as_it_is(good: str) -> None:
    assert user_id(good) == good


@pytest.mark.parametrize(
    ("environ", "given_directory", "expected"),
    [
        ({}, None, "/cwd/data"),
        ({"DATA_DIR": "/srv/d"}, None, "/srv/d"),
        ({"DATA_DIR": "rel"}, None, "/cwd/rel"),
        ({"DATA_DIR": ""}, None, "/cwd/data"),
        ({"DATA_DIR": "/srv/d"}, Path("mine"), "/cwd/mine"),
    ],
)
def test_the_data_directory_is_the_option_then_the_variable_then_the_default(
    environ: dict[str, str], given_directory: Path | None, expected: str
) -> None:
    assert PathManager.from_env(environ, Path("/cwd"), given_directory).base_dir == Path(expected)


def test_a_sessions_own_area_is_beside_its_root_and_never_another_sessions_root() -> None:
    root, area = PATHS.workspace_dir("u", "s"), PATHS.session_area("u", "s")
    assert area.directory.parent == root.parent
    assert not area.state.is_relative_to(root)
    with pytest.raises(InvalidRequest):
        PATHS.workspace_dir("u", area.directory.name)


def test_session_ids_sort_by_time_and_differ_within_a_second() -> None:
    early, late = datetime(2026, 1, 2, 3, 4, 5), datetime(2026, 1, 2, 3, 4, 6)
    assert new_session_id(early, b"\xff" * 4) < new_session_id(late, b"\0" * 4)
    assert new_session_id(early, b"aaaa") != new_session_id(early, b"aaab")
    assert session_id(new_session_id(early, b"aaaa"))


def test_every_user_has_caches_of_its_own() -> None:
    assert PATHS.cache_dir("a", "npm") != PATHS.cache_dir("b", "npm")
