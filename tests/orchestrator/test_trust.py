"""Agents' files: merged into what a person has, never overwriting what is not understood."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.placing import FileToPlace, place, read_below
from orchestrator.plan import WorkspacePlan
from orchestrator.trust import CLAUDE_SETTINGS, CODEX_CONFIG, claude_settings, codex_config, provision
from protocol.errors import Conflict

W = "/home/node/workspace"
TRUSTED = {"trust_level": "trusted"}
PLAN = WorkspacePlan(True, Path("/src"), "/home/node", W, W)

SHAPES = {
    "empty": "",
    "only a comment": "# mine\n",
    "no line feed at the end": "model = 'x' # mine",
    "another project": '[projects."/a"]\ntrust_level = "untrusted" # not this one\n',
    "projects apart": '[projects."/a"]\nx = 1\n\n[mcp]\nx = 1\n\n[projects."/b"]\ny = 2\n# end\n',
    "ours, and others apart": f'[projects."{W}"]\ntrust_level = "untrusted"\n[mcp]\nx = 1\n[projects."/b"]\n',
    "ours, with more in it": f'[projects."{W}"]\nnote = "n" # keep\n[after]\nz = 1\n',
    "below ours": f'[projects."{W}".deep]\na = 1\n[z]\nb = 2\n',
    "ours without a level, inline": f'projects = {{ "{W}" = {{ note = 1 }} }} # mine\nmodel = "x"\n',
    "projects inline": 'projects = {"/a" = {trust_level = "trusted"}} # mine\nmodel = "y"\n[t]\nz = 1\n',
    "dotted keys": 'projects."/a".trust_level = "trusted"\nmodel = "y"\n[t]\nz = 1\n',
    "ours by dotted keys": f'projects."{W}".trust_level = "untrusted" # no\nmodel = "y"\n[t]\nz = 1\n',
    "an own heading": '[projects]\n# mine\n[projects."/a"]\ntrust_level = "trusted"\n',
    "an empty heading": "[projects]\n[q]\nz = 1\n",
    "arrays of tables": '[[profiles]]\nname = "a"\n[[profiles]]\nname = "b"\n[projects."/x"]\na = 1\n',
    "lines of another system": 'model = "x" # mine\r\n[projects."/x"]\r\na = 1\r\n',
    "projects of something else": '[tool.projects."/a"]\nb = 2\n',
}


def with_trust(text: str) -> dict[str, Any]:
    parsed = tomllib.loads(text)
    parsed.setdefault("projects", {}).setdefault(W, {}).update(TRUSTED)
    return parsed


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
def test_codex_trusts_the_workspace_and_everything_else_is_as_it_was(text: str) -> None:
    merged = codex_config(text.encode(), W)
    assert tomllib.loads(merged.decode()) == with_trust(text)
    assert codex_config(merged, W) == merged
    for line in text.splitlines():
        comment = line.partition("#")[2]
        assert comment in merged.decode()


NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "Zs", "P")), min_size=1, max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
PROJECTS = st.dictionaries(
    NAMES.map("/{}".format) | st.just(W), st.dictionaries(NAMES, VALUES, max_size=3), max_size=3
)


@given(before=st.dictionaries(NAMES, VALUES, max_size=4), projects=st.none() | PROJECTS)
def test_codex_keeps_whatever_a_configuration_says(
    before: dict[str, Any], projects: dict[str, Any] | None
) -> None:
    import tomlkit

    before.pop("projects", None)
    text = tomlkit.dumps(before | ({} if projects is None else {"projects": projects}))
    merged = codex_config(text.encode(), W)
    assert tomllib.loads(merged.decode()) == with_trust(text)
    assert codex_config(merged, W) == merged


@given(before=st.dictionaries(NAMES, VALUES, max_size=4), projects=st.none() | PROJECTS)
def test_claude_keeps_whatever_its_settings_say(
    before: dict[str, Any], projects: dict[str, Any] | None
) -> None:
    settings: dict[str, Any] = before | ({} if projects is None else {"projects": projects})
    if projects is None:
        settings.pop("projects", None)
    merged = claude_settings(json.dumps(settings).encode(), W)
    expected = json.loads(json.dumps(settings))
    expected.setdefault("projects", {}).setdefault(W, {})["hasTrustDialogAccepted"] = True
    assert json.loads(merged) == expected
    assert list(json.loads(merged)) == list(expected)
    assert claude_settings(merged, W) == merged


def test_a_home_that_was_in_use_keeps_its_own_answer_to_the_first_questions() -> None:
    merged = json.loads(claude_settings(b'{"theme": "dark"}', W))
    assert merged == {"theme": "dark", "projects": {W: {"hasTrustDialogAccepted": True}}}


def test_what_is_trusted_already_is_the_same_to_the_byte_however_it_is_written() -> None:
    codex = f"projects.'{W}'  =  {{trust_level='trusted'}}".encode()
    claude = f'{{"projects":{{"{W}":{{"hasTrustDialogAccepted":true}}}}}}'.encode()
    assert codex_config(codex, W) == codex
    assert claude_settings(claude, W) == claude


def test_a_refusal_given_earlier_is_taken_back() -> None:
    assert json.loads(
        claude_settings(f'{{"projects":{{"{W}":{{"hasTrustDialogAccepted":false}}}}}}'.encode(), W)
    )["projects"][W]["hasTrustDialogAccepted"]
    assert (
        "untrusted" not in codex_config(f'[projects."{W}"]\ntrust_level = "untrusted"'.encode(), W).decode()
    )


def test_characters_stay_readable_and_half_ones_stay_too() -> None:
    assert "né" in claude_settings('{"name": "né"}'.encode(), W).decode()
    assert json.loads(claude_settings(rb'{"name": "\ud83d"}', W))["name"] == "\ud83d"


UNFIT_TOML = [
    b"model = ",
    b"[projects\n",
    b"a = 1\na = 2\n",
    b"\xff\xfe",
    b"projects = 3\n",
    b"a = " + b"[" * 100_000,
]
UNFIT_JSON = [
    b"{",
    b"{]}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"projects": []}',
    b'{"a": 1e999}',
    b"[" * 100_000,
    b" ",
]


@pytest.mark.parametrize(
    "content", [*UNFIT_TOML, f'[projects]\n"{W}" = "trusted"\n'.encode()], ids=lambda c: repr(c[:24])
)
def test_a_codex_file_that_is_not_understood_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path, CODEX_CONFIG, content)


@pytest.mark.parametrize(
    "content", [*UNFIT_JSON, f'{{"projects": {{"{W}": 1}}}}'.encode()], ids=lambda c: repr(c[:24])
)
def test_a_claude_file_that_is_not_understood_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path, CLAUDE_SETTINGS, content)


def refused(home: Path, path: str, content: bytes) -> None:
    """The file is as it was, and nothing else was written either."""
    file = home / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(Conflict, match=f"~/{path} is left as it is, because .*"):
        provision(PLAN, home)
    assert file.read_bytes() == content
    assert [each for each in home.rglob("*") if each.is_file()] == [file]


def test_a_fresh_home_gets_both_files_for_its_owner_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        assert provision(PLAN, tmp_path) == [CODEX_CONFIG, CLAUDE_SETTINGS]
    finally:
        os.umask(umask)
    modes = {
        path: stat.S_IMODE((tmp_path / path).stat().st_mode)
        for path in (CODEX_CONFIG, CLAUDE_SETTINGS, ".codex")
    }
    assert modes == {CODEX_CONFIG: 0o600, CLAUDE_SETTINGS: 0o600, ".codex": 0o700}
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".claude.json", ".codex", "config.toml"]


def test_a_second_time_writes_nothing(tmp_path: Path) -> None:
    provision(PLAN, tmp_path)
    before = (tmp_path / CODEX_CONFIG).stat()
    assert provision(PLAN, tmp_path) == []
    assert (tmp_path / CODEX_CONFIG).stat() == before


def test_a_mode_that_lets_others_read_is_closed(tmp_path: Path) -> None:
    provision(PLAN, tmp_path)
    (tmp_path / CLAUDE_SETTINGS).chmod(0o644)
    assert provision(PLAN, tmp_path) == [CLAUDE_SETTINGS]
    assert stat.S_IMODE((tmp_path / CLAUDE_SETTINGS).stat().st_mode) == 0o600


def test_a_link_in_the_home_is_not_followed(tmp_path: Path) -> None:
    outside, home = tmp_path / "outside", tmp_path / "home"
    (outside / "codex").mkdir(parents=True)
    home.mkdir()
    (home / ".codex").symlink_to(outside / "codex")
    with pytest.raises(Conflict, match=r"'\.codex' is a link"):
        provision(PLAN, home)
    (home / ".codex").unlink()
    (home / ".claude.json").symlink_to(outside / "settings")
    with pytest.raises(Conflict, match=r"'\.claude\.json' is a link"):
        provision(PLAN, home)
    assert [path for path in outside.rglob("*") if not path.is_dir()] == []
    assert not (home / ".codex").exists()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(Conflict, match="is a link, or not what it should be"):
            read_below(tmp_path, name)
    with pytest.raises(Conflict, match="'directory' is a link, or not what it should be"):
        place(tmp_path, FileToPlace("directory", b""))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path, FileToPlace("a/b", b"old"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        place(tmp_path, FileToPlace("a/b", b"new"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {"b": b"old"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, so only root has to")
def test_what_root_places_belongs_to_whom_the_home_belongs(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 4321)
    provision(PLAN, tmp_path)
    for path in (CODEX_CONFIG, CLAUDE_SETTINGS, ".codex"):
        assert ((tmp_path / path).stat().st_uid, (tmp_path / path).stat().st_gid) == (1234, 4321)
