"""What can be told about a template before anybody starts it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.template_checks import Report, check_template
from orchestrator.templates import template_directories, template_roots


def check(directory: Path, files: dict[str, str], template: dict[str, Any] | None = None) -> Report:
    """A template ``t`` of these files, checked."""
    for path, content in files.items():
        (directory / "t" / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / "t" / path).write_text(content)
    if template is not None:
        (directory / "t" / "template.json").write_text(json.dumps(template))
    return check_template("t", directory / "t")


def found(report: Report) -> list[str]:
    return [f"{finding.level}: {finding.path}: {finding.message}" for finding in report.findings]


PAGE = {"index.html": "<p>"}
PROJECT = {"package.json": '{"scripts": {"dev": "vite"}}', "package-lock.json": "{}"}


def test_the_templates_that_come_along_have_nothing_to_complain_about() -> None:
    directories = template_directories(template_roots(Path("/nowhere")))
    assert {name: found(check_template(name, path)) for name, path in directories.items()} == {
        name: [] for name in directories
    }


def test_a_directory_with_only_a_package_file_is_a_template(tmp_path: Path) -> None:
    assert check(tmp_path, PROJECT).ok(strict=True)


def test_a_page_alone_is_a_template(tmp_path: Path) -> None:
    report = check(tmp_path, PAGE)
    assert (report.ok(strict=True), report.files, report.content_bytes) == (True, 1, 3)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"devComand": "x"}, "error: template.json: unknown field 'devComand'; did you mean"),
        ({"port": "4321"}, "error: template.json: expected"),
        ({"files": {"required": ["gone.txt"]}}, "error: gone.txt: files.required names it"),
        ({"port": 80}, "error: template.json: port 80 is not from 1024 to 65535"),
        ({"ports": [{"port": 99999}]}, "error: template.json: port 99999"),
        ({"readiness": {"log": {"pattern": "("}}}, "error: template.json: readiness.log.pattern"),
        ({"readiness": {"http": {"path": "x"}}}, "error: template.json: readiness.http.path begins with /"),
        ({"readiness": {"http": {"status": 1}}}, "error: template.json: readiness.http.status is from 100"),
        ({"readiness": {"command": {"command": " "}}}, "error: template.json: readiness.command.command is"),
        ({"readiness": {"file": {"path": "../x"}}}, "error: template.json: readiness.file.path: '../x' is"),
        ({"readiness": {"timeoutMs": 0}}, "error: template.json: readiness.timeoutMs must be above 0"),
        ({"restartOn": ["!"]}, "error: template.json: restartOn holds '!': "),
        ({"devCommand": "serve ."}, "warning: template.json: devCommand has no {port}"),
        ({"id": "other"}, "warning: template.json: id is 'other'"),
        ({"id": "../x y"}, "error: template.json: id '../x y' is no plain name"),
        ({"packageManager": "pip@1"}, "error: template.json: packageManager 'pip@1' is none of npm, pnpm"),
    ],
)
def test_what_template_json_gets_wrong_is_named(
    tmp_path: Path, template: dict[str, Any], message: str
) -> None:
    findings = found(check(tmp_path, PAGE, template))
    assert len(findings) == 1
    assert findings[0].startswith(message)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"index.html": "", "Dockerfile": ""}, "warning: Dockerfile: has no effect"),
        ({"index.html": "", "docker-compose.dev.yml": ""}, "warning: docker-compose.dev.yml: has no effect"),
        ({"index.html": "", "sub/compose.yaml": ""}, "warning: sub/compose.yaml: has no effect"),
        (
            {"package.json": '{"packageManager": "cargo", "scripts": {"dev": ""}}', "package-lock.json": ""},
            "error: package.json: packageManager 'cargo' is none of",
        ),
        ({"package.json": "{", "package-lock.json": ""}, "error: package.json: is not valid"),
        (
            {"package.json": "[]", "package-lock.json": ""},
            "error: package.json: is not valid: it is no object",
        ),
        (
            {"package.json": '{"a":' * 5000 + "1" + "}" * 5000, "package-lock.json": ""},
            "error: package.json: is not valid: maximum recursion depth exceeded",
        ),
        ({"package.json": '{"scripts": {"dev": "vite"}}'}, "warning: package.json: there is no lock file"),
        ({"readme.txt": ""}, "warning: template.json: nothing to start"),
    ],
)
def test_what_the_files_get_wrong_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    findings = found(check(tmp_path, files))
    assert len(findings) == 1
    assert findings[0].startswith(message)


def test_a_fifo_where_a_file_should_be_is_told_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    os.mkfifo(tmp_path / "t" / "package.json")
    assert found(check(tmp_path, PAGE))[:2] == [
        "error: package.json: is a device, socket or fifo: remove it",
        "error: package.json: is not valid: it is no file",
    ]
    os.mkfifo(tmp_path / "t" / "template.json")
    assert "template.json cannot be read: it is no file" in found(check(tmp_path, PAGE))[0]


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "sub/../../x"])
def test_a_link_that_leaves_is_an_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "link").symlink_to(target)
    assert found(check(tmp_path, PAGE)) == [
        f"error: link: links to {target!r}, outside the template: copy it in"
    ]


def test_a_link_that_stays_is_none(tmp_path: Path) -> None:
    (tmp_path / "t" / "sub").mkdir(parents=True)
    (tmp_path / "t" / "sub" / "link").symlink_to("../index.html")
    assert check(tmp_path, PAGE).ok(strict=True)


def test_a_fifo_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    os.mkfifo(tmp_path / "t" / "pipe")
    assert found(check(tmp_path, PAGE)) == ["error: pipe: is a device, socket or fifo: remove it"]


def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    assert not check(tmp_path, {}).ok()


def test_what_stays_behind_is_not_judged(tmp_path: Path) -> None:
    files = PAGE | {"node_modules/x/Dockerfile": "", "old/Dockerfile": ""}
    assert check(tmp_path, files, {"files": {"exclude": ["old"]}}).ok(strict=True)


def test_a_large_one_is_told_to_leave_things_out(tmp_path: Path) -> None:
    files = PAGE | {f"f/{number}": "" for number in range(2001)}
    assert found(check(tmp_path, files)) == [
        "warning: .: is large (2002 files, 0.0 MiB): leave out what can be made, by files.exclude"
    ]


def test_warnings_count_only_when_strict(tmp_path: Path) -> None:
    report = check(tmp_path, {"index.html": "", "Dockerfile": ""})
    assert report.ok()
    assert not report.ok(strict=True)
