"""The templates that come along: pinned, for every platform, and told in the documents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted(path for path in (ROOT / "templates").iterdir() if path.is_dir())
LOCKED = [path for path in TEMPLATES if (path / "package.json").is_file()]
of_each_locked = pytest.mark.parametrize("template", LOCKED, ids=lambda path: path.name)


def packages(template: Path) -> dict[str, dict[str, Any]]:
    """What the lock file has, by its place; the project itself is at the empty one."""
    locked: dict[str, dict[str, Any]] = json.loads((template / "package-lock.json").read_text())["packages"]
    return locked


def found_from(place: str, name: str, locked: dict[str, dict[str, Any]]) -> bool:
    """Whether a program in ``place`` finds the package: in its own node_modules, or in one further up."""
    while True:
        if f"{place}/node_modules/{name}".removeprefix("/") in locked:
            return True
        if not place:
            return False
        place = place.rpartition("node_modules/")[0].rstrip("/")


@of_each_locked
def test_a_lock_has_what_every_platform_needs(template: Path) -> None:
    # `npm ci` refuses a lock that lacks a package, though it may be another platform's.
    locked = packages(template)
    missing = [
        f"{place} needs {name}"
        for place, package in locked.items()
        for kind in ("dependencies", "optionalDependencies")
        for name in package.get(kind, {})
        if not found_from(place, name, locked)
    ]
    assert missing == []


@of_each_locked
def test_a_lock_names_no_registry_and_every_digest(template: Path) -> None:
    text = (template / "package-lock.json").read_text()
    assert '"resolved"' not in text
    for place, package in packages(template).items():
        inside = package.get("inBundle") or not place
        assert inside or package["integrity"].startswith("sha512-"), place


@of_each_locked
def test_direct_packages_are_pinned_to_what_is_locked(template: Path) -> None:
    package, locked = json.loads((template / "package.json").read_text()), packages(template)
    for kind in ("dependencies", "devDependencies"):
        for name, version in package.get(kind, {}).items():
            assert locked[f"node_modules/{name}"]["version"] == version


@of_each_locked
def test_a_template_leaves_its_packages_and_secrets_out_of_git(template: Path) -> None:
    ignored = (template / ".gitignore").read_text().splitlines()
    assert {"node_modules/", ".env*", "!.env.example"} <= set(ignored)


def test_the_document_tells_every_template_and_no_other() -> None:
    table = (ROOT / "docs/templates.md").read_text().partition("| template |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)) == {path.name for path in TEMPLATES}
