"""A template's variables on the host: put in while it is packed, and refused before anything is started."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator import WorkspaceHost
from orchestrator.cli import cli
from orchestrator.cli.pushing import Pusher
from orchestrator.packing import Packed, packed, planned
from orchestrator.substitution import MAX_SUBSTITUTED_BYTES, with_values
from orchestrator.template_checks import check_template
from orchestrator.templates import Source, SourceKind, find_source
from protocol.errors import InvalidRequest, OutsideWorkspace
from tests.builder import exactly

VARIABLES: dict[str, dict[str, Any]] = {
    "title": {},
    "columns": {"type": "number", "default": 3},
    "tone": {"type": "choice", "choices": ["warm", "cool"], "default": "warm"},
}
PAGE = "<title>{{title}}</title> {{columns}} {{other}}\n"


def template(roots: Path, page: str = PAGE, **more: Any) -> Path:
    """A template ``shop`` whose page and style take variables, and whose notes do not."""
    directory = roots / "templates" / "shop"
    (directory / "src").mkdir(parents=True)
    said = {"variables": VARIABLES, "substitute": ["index.html", "src/style.css"], **more}
    (directory / "template.json").write_text(json.dumps(said))
    (directory / "index.html").write_text(page)
    (directory / "src/style.css").write_text("/* {{tone}} */\n")
    (directory / "notes.md").write_text("{{title}}\n")
    return directory


def source(roots: Path, **given: str) -> Source:
    return with_values(find_source("shop", [roots / "templates"], roots), given)


def files_of(archive: Packed) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(archive.spool().read())) as found:
        return {
            member.name: extracted.read().decode()
            for member in found
            if (extracted := found.extractfile(member)) is not None
        }


def workspace(*words: str) -> Result:
    return CliRunner().invoke(cli, words, prog_name="workspace")


def test_listed_files_are_packed_with_values_and_the_others_as_they_are(tmp_path: Path) -> None:
    directory = template(tmp_path)
    files = files_of(packed(source(tmp_path, title="Zoë: {{tone}} shop"), tmp_path / "data"))
    assert files["index.html"] == "<title>Zoë: {{tone}} shop</title> 3 {{other}}\n"
    assert files["src/style.css"] == "/* warm */\n"
    assert files["notes.md"] == "{{title}}\n"
    assert (directory / "index.html").read_text() == PAGE


def test_the_digest_tells_the_values_apart(tmp_path: Path) -> None:
    template(tmp_path)
    digests = [packed(source(tmp_path, title=title), tmp_path / "data").digest for title in ("a", "b", "a")]
    assert digests[0] == digests[2] != digests[1]


def test_what_is_told_of_its_size_is_of_what_is_sent(tmp_path: Path) -> None:
    template(tmp_path, page="{{title}}")
    archive = packed(source(tmp_path, title="x" * 500), tmp_path / "data")
    assert archive.content_bytes == sum(len(content.encode()) for content in files_of(archive).values())


def test_a_directory_by_its_path_is_given_values_too(tmp_path: Path) -> None:
    directory = template(tmp_path)
    chosen = with_values(find_source(str(directory), [], tmp_path), {"title": "x"})
    assert chosen.kind is SourceKind.DIRECTORY
    assert "<title>x</title>" in files_of(packed(chosen, tmp_path / "data", planned(chosen)))["index.html"]


def test_a_value_that_nobody_gave_is_asked_for_only_where_it_is_needed(tmp_path: Path) -> None:
    directory = template(tmp_path)
    message = "shop needs a value for 'title', which index.html has: give one by --set title=VALUE"
    with pytest.raises(InvalidRequest, match=exactly(message)):
        source(tmp_path)
    # As in a copy of a workspace that came of it: there it was put in long ago.
    (directory / "index.html").write_text("<title>mine</title>")
    assert "mine" in files_of(packed(source(tmp_path), tmp_path / "data"))["index.html"]


def test_an_archive_takes_no_values(tmp_path: Path) -> None:
    template(tmp_path)
    save = tmp_path / "save.tar.gz"
    save.write_bytes(packed(source(tmp_path, title="x"), tmp_path / "data").spool().read())
    again = find_source(str(save), [], tmp_path)
    assert with_values(again, {}) == again
    with pytest.raises(InvalidRequest, match=r"save\.tar\.gz is an archive, sent in as it is"):
        with_values(again, {"title": "y"})


@pytest.mark.parametrize("listed", ["gone.txt", "src", "link", "pipe", "large.txt"])
def test_a_listed_file_that_is_no_plain_small_one_is_refused_by_its_name(tmp_path: Path, listed: str) -> None:
    directory = template(tmp_path, substitute=[listed])
    (directory / "link").symlink_to("index.html")
    os.mkfifo(directory / "pipe")
    (directory / "large.txt").write_bytes(bytes(MAX_SUBSTITUTED_BYTES + 1))
    with pytest.raises(InvalidRequest, match=f"substitute lists '{listed}'"):
        source(tmp_path, title="x")


def test_a_file_outside_the_template_is_never_read(tmp_path: Path) -> None:
    template(tmp_path, substitute=["../../secret"])
    (tmp_path / "secret").write_text("{{title}}")
    with pytest.raises(OutsideWorkspace):
        source(tmp_path, title="x")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "titel=x"), "there is no variable 'titel'; did you mean 'title'?"),
        (("--set", "title=x", "--set", "tone=hot"), "variable 'tone' is one of warm, cool, not 'hot'"),
        (("--set", "title=x", "--set", "columns=two"), "variable 'columns' is a number such as 3 or 0.5"),
        (("--set", "title"), "give it as name=value, not 'title'"),
        (("--set", "title=x", "--set", "title=y"), "'title' is given twice"),
        ((), "shop needs a value for 'title'"),
    ],
)
def test_up_refuses_a_wrong_value_before_it_starts_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    template(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = workspace("up", "shop", *words)
    assert result.exit_code != 0
    assert told in " ".join(result.stderr.split())
    assert not (tmp_path / "data" / "workspaces").exists()


def test_the_check_tells_what_is_listed_and_missing_or_declared_and_unused(
    tmp_path: Path,
) -> None:
    directory = template(
        tmp_path, page="{{titel}}", variables={"title": {}}, substitute=["index.html", "gone.md"]
    )
    found = {
        f"{each.level}: {each.path}: {each.message}" for each in check_template("shop", directory).findings
    }
    assert found == {
        "error: gone.md: substitute lists it, and it is no plain file (or is excluded)",
        "warning: template.json: variable 'title' is in none of the files of 'substitute'",
        "warning: index.html: '{{titel}}' is no variable; did you mean 'title'?",
    }


def test_a_check_of_a_template_with_variables_that_are_all_used_is_silent(tmp_path: Path) -> None:
    assert check_template("shop", template(tmp_path)).findings == []


async def test_a_followed_template_pushes_values_and_what_a_new_default_changes(tmp_path: Path) -> None:
    directory = template(tmp_path)
    pusher, client = Pusher(source(tmp_path, title="x")), _Taken()
    assert not await pusher.differs()
    (directory / "index.html").write_text("<p>{{title}}</p>")
    assert (await pusher.push(client)).changed == ("index.html",)  # type: ignore[arg-type]
    assert client.files["index.html"] == b"<p>x</p>"
    variables = {**VARIABLES, "tone": {**VARIABLES["tone"], "default": "cool"}}
    said = {"variables": variables, "substitute": ["index.html", "src/style.css"]}
    (directory / "template.json").write_text(json.dumps(said))
    assert (await pusher.push(client)).changed == ("src/style.css", "template.json")  # type: ignore[arg-type]
    assert client.files["src/style.css"] == b"/* cool */\n"


async def test_a_program_that_makes_workspaces_gives_values_as_what_they_are(tmp_path: Path) -> None:
    template(tmp_path)
    async with WorkspaceHost(tmp_path / "data", directory=tmp_path) as host:
        async with await host.create("shop", variables={"title": "Hers", "columns": 4}) as workspace:
            assert (await workspace.read("index.html")).content.startswith("<title>Hers</title> 4 ")
        with pytest.raises(InvalidRequest, match="there is no variable 'size'"):
            await host.create("shop", variables={"size": 4})
        assert await host.list() == []


class _Taken:
    """As much of a client as a push needs: it keeps what it is sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    async def put_archive(self, archive: bytes, _mode: object) -> None:
        with tarfile.open(fileobj=io.BytesIO(archive)) as found:
            for member in found:
                if (extracted := found.extractfile(member)) is not None:
                    self.files[member.name] = extracted.read()
