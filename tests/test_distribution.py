"""What leaves this checkout: a wheel that holds everything, and locks that name every digest and no place."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protocol", "toolserver", "orchestrator")
LOCKS = sorted((ROOT / "locks").glob("*.txt"))


def copy_project(target: Path) -> Path:
    """The sources without what has grown beside them."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, target)
    for name in (*PACKAGES, "templates"):
        shutil.copytree(
            ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
        )
    return target


def build_wheel(project: Path) -> set[str]:
    """The names in the wheel that ``project`` builds to."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(project / "out")]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=100)
    (wheel,) = (project / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_the_wheel_holds_every_module_and_its_types(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    names = build_wheel(project)
    for package in PACKAGES:
        assert {f"{package}/{name}" for name in files_below(project / package)} <= names
        assert f"{package}/py.typed" in names


def test_templates_ship_whole_with_their_dotfiles_and_without_their_packages(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    extra = {
        ".gitignore",
        ".npmrc",
        ".env.example",
        ".vscode/settings.json",
        "build/x.js",
        "dist/x",
        "data/x",
    }
    for name in extra | {"node_modules/left-pad/index.js"}:
        path = project / "templates" / "odd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("node_modules\n")
    templates = files_below(project / "templates") - {"odd/node_modules/left-pad/index.js"}
    shipped = {name for name in build_wheel(project) if name.startswith("orchestrator/_templates/")}
    assert shipped == {f"orchestrator/_templates/{name}" for name in templates}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_a_version_and_digests(lock: Path) -> None:
    text = re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    for entry in entries:
        assert re.fullmatch(
            r"[a-z0-9.-]+==\S+( ; [^\\]+?)?(\s+\\\n    --hash=sha256:[0-9a-f]{64})+", entry.rstrip()
        ), entry


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_index_and_no_place_on_a_machine(lock: Path) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|/home/|/tmp/", lock.read_text())


def requirements(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    return {re.split(r"[\[<>=]", line)[0] for line in lines}


def locked(name: str) -> dict[str, str]:
    pins = re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / "locks" / f"{name}.txt").read_text(), re.MULTILINE)
    return dict(pins)


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("dev", ("toolserver", "host", "docker", "examples", "dev")),
        ("toolserver", ("toolserver",)),
        ("embedded", ("embedded",)),
    ],
)
def test_a_lock_holds_everything_that_its_extras_ask_for(lock: str, extras: tuple[str, ...]) -> None:
    assert requirements(*extras) <= locked(lock).keys()


def test_the_locks_agree_on_every_version() -> None:
    development = locked("dev")
    for name in ("toolserver", "embedded"):
        shared = locked(name).keys() & development.keys()
        assert {package: locked(name)[package] for package in shared} == {
            package: development[package] for package in shared
        }
