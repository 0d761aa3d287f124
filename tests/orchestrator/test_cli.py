"""The command line where no workspace runs: usage, refusals, templates, what it costs to start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import cli, main
from orchestrator.cli.summary import curl_line
from orchestrator.cli.up import port_wishes
from orchestrator.ports import DEV_PORTS, TOOL_PORTS, Wish
from orchestrator.templates import Source, SourceKind
from protocol.templates import Template


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, its data directory below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_DIR", raising=False)
    return tmp_path


def workspace(*words: str, stdin: str | None = None) -> Result:
    """The command, run inside this process."""
    return CliRunner().invoke(cli, words, input=stdin, prog_name="workspace")


def every_command(group: click.Group, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        words = (*above, name)
        found += every_command(command, words) if isinstance(command, click.Group) else [words]
    return found


def test_starting_imports_nothing_heavy() -> None:
    heavy = {"aiohttp", "asyncio", "rich", "sqlite3", "websockets", "zstandard"}
    code = f"import sys, orchestrator.cli; print(*sorted({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""


@pytest.mark.parametrize("words", [(), *every_command(cli)], ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    result = workspace(*words, "--help")
    assert result.exit_code == 0
    assert "Usage: workspace" in result.output


@pytest.mark.parametrize("words", every_command(cli), ids=" ".join)
def test_every_command_speaks_json(words: tuple[str, ...]) -> None:
    assert "--json" in workspace(*words, "--help").output


@pytest.mark.parametrize(
    "words",
    [
        ("up",),
        ("up", "a", "b"),
        ("up", "static-html", "--port", "70000"),
        ("exec", "session"),
        ("exec", "session", "--"),
        ("exec", "-e", "NAME", "--", "ls"),
        ("down", "--all", "session"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...], here: Path) -> None:
    assert workspace(*words).exit_code == 2
    assert list(here.iterdir()) == []


def test_a_command_that_a_refusal_names_is_for_the_same_user_and_data_directory(here: Path) -> None:
    result = workspace("exec", "s1", "--user", "ann", "--data-dir", str(here / "far"), "--json", "--", "ls")
    named = f"`workspace ls --all --data-dir {here / 'far'} --user ann`"
    assert named in result.stderr
    assert named in json.loads(result.stdout)["error"]["message"]


def test_one_port_for_both_servers_is_wrong_usage(here: Path) -> None:
    result = workspace("up", "static-html", "--port", "3005", "--dev-port", "3005")
    assert (result.exit_code, "both 3005" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("up", "static-htm"), "did you mean 'static-html'?"),
        (("up", ""), "name a template, a directory or an archive; templates are"),
        (("up", "./nothing"), "no template, directory or archive './nothing'"),
        (("up", "static-html", "--user", "../x"), "user id '../x' is refused"),
        (("exec", "--", "ls"), "no session runs; start one by `workspace up TEMPLATE`"),
        (("exec", "s1", "--", "ls"), "no session 's1'"),
        (("down",), "no session runs"),
        (("save",), "no session runs"),
        (("call", "serch", "{}"), "no operation 'serch'; did you mean 'search'?"),
        (("call", "zzzzz", "{}"), "no operation 'zzzzz'; there are read, "),
        (("call", "read", '{"pth": 1}'), "did you mean 'path'"),
        (("call", "read", "{"), "not valid JSON"),
        (("template", "validate", "nothing"), "no template or directory 'nothing'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_refusal_is_one_sentence_on_stderr_and_exit_code_1(
    words: tuple[str, ...], sentence: str, here: Path
) -> None:
    result = workspace(*words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("workspace: ")
    assert sentence in result.stderr
    assert list(here.iterdir()) == []


def test_a_refusal_for_programs_is_the_error_object(here: Path) -> None:
    result = workspace("exec", "s1", "--json", "--", "ls")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["details"]) == ("not_found", {"sessionId": "s1"})


def test_a_data_directory_that_is_a_file_is_refused(here: Path) -> None:
    (here / "data").touch()
    result = workspace("up", "static-html", "--detach")
    assert result.exit_code == 1
    assert "workspace doctor" in result.stderr


def test_nothing_running_is_an_empty_list(here: Path) -> None:
    assert workspace("ls", "--json").stdout == "[]\n"
    assert workspace("ls").exit_code == 0
    assert workspace("down", "--all").exit_code == 0


def test_what_stands_behind_the_dashes_is_the_commands(here: Path) -> None:
    result = workspace("exec", "s1", "--", "ls", "--help", "--json", "--")
    assert "no session 's1'" in result.stderr


def test_templates_are_listed_with_what_they_are(here: Path) -> None:
    (here / "templates" / "mine").mkdir(parents=True)
    (here / "templates" / "mine" / "template.json").write_text('{"description": "My own."}')
    (here / "templates" / "bad").mkdir()
    (here / "templates" / "bad" / "template.json").write_text('{"nam": ""}')
    rows = {
        row["name"]: row["description"] for row in json.loads(workspace("template", "list", "--json").stdout)
    }
    assert rows["mine"] == "My own."
    assert "broken: template.json: unknown field 'nam'" in rows["bad"]
    assert "static-html" in workspace("template", "list").stdout


def test_a_template_with_an_error_fails_the_check_and_is_told_from_the_others(here: Path) -> None:
    (here / "bad").mkdir()
    (here / "bad" / "index.html").touch()
    (here / "bad" / "template.json").write_text('{"port": 80}')
    result = workspace("template", "validate", "bad", "static-html")
    assert result.exit_code == 1
    assert "bad: refused" in result.stdout
    assert "  error: template.json: port 80 is not from 1024 to 65535" in result.stdout
    assert "static-html: ok" in result.stdout


def test_strict_turns_a_warning_into_a_refusal(here: Path) -> None:
    (here / "t").mkdir()
    (here / "t" / "readme.txt").touch()
    assert workspace("template", "validate", "t").exit_code == 0
    result = workspace("template", "validate", "--strict", "--json", "t")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["findings"][0]["level"] == "warning"


def test_a_port_that_was_asked_for_does_not_give_way() -> None:
    source = Source(SourceKind.DIRECTORY, "x", Path("x"), Template(port=5173))
    wishes = port_wishes(source, None, None)
    assert (wishes.tool, wishes.dev) == (Wish(3001, TOOL_PORTS), Wish(5173, DEV_PORTS))
    wishes = port_wishes(source, 0, 8080)
    assert (wishes.tool, wishes.dev) == (Wish(0), Wish(8080))


def test_a_printed_line_survives_the_shell() -> None:
    line = curl_line("http://h:1", "T", "read", {"path": 'it\'s $HOME "x"'})
    answer = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    words = answer.stdout.decode().split("\0")
    assert json.loads(words[-2]) == {"path": 'it\'s $HOME "x"'}


def broken(*_: object) -> None:
    raise LookupError("no such\nthing")


def test_a_bug_is_one_sentence_that_names_where_the_details_are(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(here))
    monkeypatch.setattr(cli, "invoke", broken)
    with pytest.raises(SystemExit, match="1"):
        main(["ls"])
    sentence = capsys.readouterr().err
    assert re.fullmatch(
        r"workspace: unexpected, .*: LookupError: no such; the details are in \S+\n", sentence
    )
    details = Path(sentence.split()[-1]).read_text()
    assert "Traceback" in details
    assert details.endswith("LookupError: no such\nthing\n")


def test_a_bug_is_shown_with_its_details_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "invoke", broken)
    with pytest.raises(LookupError):
        main(["--debug", "ls"])


def test_a_bug_on_a_full_disk_is_still_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**_: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    monkeypatch.setattr(cli, "invoke", broken)
    with pytest.raises(SystemExit, match="1"):
        main(["ls"])
    assert capsys.readouterr().err.endswith("run it again as `workspace --debug …` for the details\n")


def test_an_empty_directory_is_told_before_anything_starts(here: Path) -> None:
    (here / "mine" / ".venv").mkdir(parents=True)
    result = workspace("up", "mine")
    assert result.exit_code == 1
    assert "mine is empty, but for what copies leave out: put a file into it" in result.stderr
    assert list(here.glob("data/workspaces/*")) == []


def test_ctrl_c_before_the_first_stage_is_answered(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.toolchain.find_toolchain", interrupted)
    result = workspace("up", "static-html")
    assert (result.exit_code, result.stderr) == (130, "stopping…\nnothing was started\n")


def test_a_template_that_cannot_be_read_is_given_no_size(here: Path) -> None:
    (here / "bad").mkdir()
    (here / "bad" / "template.json").write_text("{")
    first, second = workspace("template", "validate", "bad").stdout.splitlines()
    assert first == "bad: refused"
    assert second.startswith("  error: template.json: the file is not valid JSON")


def test_of_hundreds_of_findings_a_few_are_shown(here: Path) -> None:
    (here / "t").mkdir()
    (here / "t" / "index.html").touch()
    for number in range(12):
        (here / "t" / f"link{number:02}").symlink_to("/etc/passwd")
    (here / "t" / "Dockerfile").touch()
    shown = workspace("template", "validate", "t").stdout.splitlines()
    assert len(shown) == 1 + 5 + 1 + 1
    assert shown[6] == "  … and 7 more like these (--json has them all)"
    assert shown[7].startswith("  warning: Dockerfile")
    assert len(json.loads(workspace("template", "validate", "t", "--json").stdout)[0]["findings"]) == 13


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("TEMPLATE=", "/workspace template list"),
        ("TEMPLATE=it's mine", "/workspace up 'it'\\''s mine'"),
        ("PYTHON=python3", "/workspace up 'astro-minimal'"),
    ],
)
def test_make_up_passes_one_word_on_and_lists_templates_without_one(variable: str, expected: str) -> None:
    root = Path(__file__).parents[2]
    words = ["make", "--dry-run", "up", variable]
    # Not as a part of the make that runs these tests: it would add what it enters and leaves.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    answer = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1].endswith(expected)
