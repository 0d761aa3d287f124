"""``workspace template migrate``: an older template.json, printed or rewritten as it is today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import cli

OLD = (
    '{"metadata": {"id": "shop", "author": "Ann"}, "development": {"port": 4321},'
    ' "dependencies": {"react": "19"}}'
)
NEW = {"id": "shop", "port": 4321}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A template of before, in ./templates."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "templates" / "shop"
    directory.mkdir(parents=True)
    (directory / "template.json").write_text(OLD)
    (directory / "index.html").write_text("<p>")
    (directory / "package.json").write_text("{}")
    return directory


def migrate(*words: str) -> Result:
    return CliRunner().invoke(cli, ("template", "migrate", *words), prog_name="workspace")


def test_it_is_printed_and_the_file_stays(shop: Path) -> None:
    result = migrate("shop")
    assert (result.exit_code, json.loads(result.stdout)) == (0, NEW)
    assert "metadata.author is left out" in result.stderr
    assert "dependencies names react 19, and package.json does not" in result.stderr
    assert (shop / "template.json").read_text() == OLD


def test_it_is_rewritten_in_place_and_then_starts(shop: Path) -> None:
    (shop / "template.json").chmod(0o644)
    assert migrate(str(shop), "--write").exit_code == 0
    assert json.loads((shop / "template.json").read_text()) == NEW
    assert (shop / "template.json").stat().st_mode & 0o777 == 0o644
    again = migrate("shop", "--write")
    assert again.exit_code == 1
    assert "in today's form already" in again.stderr


def test_programs_get_the_template_and_what_was_left_out(shop: Path) -> None:
    said = json.loads(migrate("shop", "--json").stdout)
    assert (said["template"], said["written"], len(said["remarks"])) == (NEW, False, 3)


def test_the_check_and_the_list_point_to_it(shop: Path) -> None:
    for command in ("validate", "list"):
        told = CliRunner().invoke(cli, ("template", command), prog_name="workspace").output
        assert "workspace template migrate DIR --write" in told, command
    assert shop.is_dir()


def test_what_would_not_be_valid_is_not_written(shop: Path) -> None:
    (shop / "template.json").write_text('{"development": {"port": "many"}}')
    result = migrate("shop", "--write")
    assert result.exit_code == 1
    assert "port" in result.stderr
    assert (shop / "template.json").read_text() == '{"development": {"port": "many"}}'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "has no template.json"),
        ("{", "cannot be read"),
        ("[]", "it is no object"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "maximum recursion depth exceeded"),
    ],
    ids=["missing", "cut", "a list", "deep"],
)
def test_one_that_is_missing_or_broken_is_said_to_be(shop: Path, content: str | None, told: str) -> None:
    (shop / "template.json").unlink()
    if content is not None:
        (shop / "template.json").write_text(content)
    result = migrate("shop")
    assert result.exit_code == 1
    assert told in result.stderr
