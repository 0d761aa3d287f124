"""What a workspace is made from."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from orchestrator.templates import (
    SourceKind,
    find_source,
    template_directories,
    template_in_archive,
    template_roots,
)
from protocol.errors import ArchiveInvalid, InvalidRequest, NotFound


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    """Two roots; ``site`` is in both, ``other`` in the second."""
    for root, names in (("first", ["site"]), ("second", ["site", "other"])):
        for name in names:
            (tmp_path / root / name).mkdir(parents=True)
            (tmp_path / root / name / "index.html").write_text(root)
    return [tmp_path / "first", tmp_path / "second"]


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def gzipped(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data)


def test_a_template_is_found_by_its_directorys_name(roots: list[Path], tmp_path: Path) -> None:
    source = find_source("other", roots, tmp_path)
    assert (source.kind, source.name, source.path) == (SourceKind.TEMPLATE, "other", roots[1] / "other")


def test_of_two_with_one_name_the_first_roots_counts(roots: list[Path], tmp_path: Path) -> None:
    assert find_source("site", roots, tmp_path).path == roots[0] / "site"


def test_a_template_dropped_in_is_usable_at_once(roots: list[Path], tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        find_source("fresh", roots, tmp_path)
    (roots[0] / "fresh").mkdir()
    assert find_source("fresh", roots, tmp_path).name == "fresh"
    (roots[0] / "fresh" / "template.json").write_text('{"devCommand": "node ."}')
    assert find_source("fresh", roots, tmp_path).template.dev_command == "node ."


def test_hidden_directories_and_files_are_no_templates(roots: list[Path]) -> None:
    (roots[0] / ".git").mkdir()
    (roots[0] / "README.md").touch()
    assert set(template_directories(roots)) == {"site", "other"}


def test_any_directory_will_do_and_comes_with_its_history(roots: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    source = find_source("mine", roots, tmp_path)
    assert (source.kind, source.path) == (SourceKind.DIRECTORY, (tmp_path / "mine").resolve())
    assert not source.exclusions.excludes(".git/config")
    assert source.exclusions.excludes("node_modules/x")
    assert find_source("site", roots, tmp_path).exclusions.excludes(".git/config")


def test_a_path_is_no_template_even_when_one_has_that_name(roots: list[Path], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    assert find_source("./site", roots, tmp_path).kind is SourceKind.DIRECTORY


def test_what_the_template_excludes_stays_behind(roots: list[Path], tmp_path: Path) -> None:
    (roots[0] / "site" / "template.json").write_text('{"files": {"exclude": ["*.psd"]}}')
    assert find_source("site", roots, tmp_path).exclusions.excludes("art/logo.psd")


def test_a_name_near_another_is_answered_with_that_one(roots: list[Path], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="did you mean 'site'"):
        find_source("sit", roots, tmp_path)


def test_a_name_near_none_is_answered_with_all(roots: list[Path], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="templates are other, site"):
        find_source("zzz", roots, tmp_path)


def test_a_misspelt_key_is_told_before_anything_starts(roots: list[Path], tmp_path: Path) -> None:
    (roots[0] / "site" / "template.json").write_text('{"devComand": "x"}')
    with pytest.raises(InvalidRequest, match="did you mean 'devCommand'"):
        find_source("site", roots, tmp_path)


def test_a_huge_template_file_is_refused(roots: list[Path], tmp_path: Path) -> None:
    (roots[0] / "site" / "template.json").write_bytes(b" " * (1024 * 1024 + 1))
    with pytest.raises(InvalidRequest, match="larger than"):
        find_source("site", roots, tmp_path)


@pytest.mark.parametrize("name", ["template.json", "./template.json"])
@pytest.mark.parametrize("packed", [bytes, gzipped, zstandard.compress])
def test_an_archive_brings_its_own_template_file(name: str, packed: object, tmp_path: Path) -> None:
    file = tmp_path / "save.bin"
    assert callable(packed)
    file.write_bytes(packed(tar_of({"a.txt": b"a", name: b'{"name": "Mine"}'})))
    assert find_source(str(file), [], tmp_path).template.name == "Mine"


def test_a_template_file_deeper_in_an_archive_is_not_the_archives(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of({"sub/template.json": b'{"name": "Other"}'}))
    assert template_in_archive(tmp_path / "a.tar").name is None


@pytest.mark.parametrize(
    "content",
    [
        gzipped(tar_of({"a": bytes(20_000)}))[:60],
        tar_of({"a": bytes(20_000)})[:3000],
        zstandard.compress(b"x" * 999),
    ],
    ids=["cut gzip", "cut tar", "zstd of no tar"],
)
def test_a_damaged_archive_is_said_to_be_and_never_replaced_by_the_template(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "save.tar").write_bytes(content)
    with pytest.raises(ArchiveInvalid, match="Use another save, or begin anew"):
        find_source("save.tar", [], tmp_path)


def test_a_file_that_is_no_archive_is_refused_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "save.zip").write_bytes(b"PK\x03\x04" + bytes(600))
    with pytest.raises(ArchiveInvalid, match="a zip file"):
        find_source("save.zip", [], tmp_path)


def test_the_templates_of_the_package_are_found_from_anywhere(tmp_path: Path) -> None:
    assert {"static-html", "vite-vanilla", "astro-minimal"} <= set(
        template_directories(template_roots(tmp_path))
    )


def test_templates_of_the_working_directory_come_first(tmp_path: Path) -> None:
    (tmp_path / "templates" / "static-html").mkdir(parents=True)
    roots = template_roots(tmp_path)
    assert template_directories(roots)["static-html"] == tmp_path / "templates" / "static-html"
