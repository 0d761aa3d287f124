"""pnpm, yarn and bun where the host has none of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.backends.environment import search_path
from orchestrator.package_managers import DIRECTORY, environment, make
from orchestrator.toolchain import find_toolchain
from tests.orchestrator.test_toolchain import write_program


def corepack(directory: Path, *names: str) -> Path:
    for name in names:
        write_program(directory / f"{name}.js")
    return write_program(directory / "corepack.js")


def test_what_the_host_has_itself_is_found_first(tmp_path: Path) -> None:
    first, *between, last = search_path("/opt/pnpm/bin:/usr/bin", tmp_path).split(":")
    assert (first, between, last) == (str(tmp_path), ["/opt/pnpm/bin", "/usr/bin"], f"{tmp_path}/{DIRECTORY}")


def test_corepack_stands_for_what_it_knows_and_npm_for_bun(tmp_path: Path) -> None:
    node = corepack(tmp_path / "dist", "pnpm", "yarn").parent
    (tmp_path / "corepack").symlink_to(node / "corepack.js")
    made = tmp_path / "spare"
    make(made, tmp_path / "corepack")
    assert {each.name: each.resolve() for each in made.iterdir()} == {
        "pnpm": node / "pnpm.js",
        "yarn": node / "yarn.js",
        "bun": made / "bun",
    }
    assert os.access(made / "bun", os.X_OK)


def test_without_corepack_nothing_of_an_earlier_one_stays(tmp_path: Path) -> None:
    make(tmp_path / "spare", corepack(tmp_path / "dist", "pnpm", "pnpx", "yarn", "yarnpkg"))
    make(tmp_path / "spare", None)
    assert [each.name for each in (tmp_path / "spare").iterdir()] == ["bun"]


def test_every_user_may_look_into_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make(tmp_path / "spare", None)
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "spare", tmp_path / "spare" / "bun")]
    assert modes == [0o755, 0o755]


def test_the_node_of_this_machine_brings_them_where_it_has_corepack(tmp_path: Path) -> None:
    found = find_toolchain(os.environ)
    if found.corepack is None:
        pytest.skip("this Node came without Corepack")
    made = found.make_bin(tmp_path) / DIRECTORY
    assert {each.name for each in made.iterdir()} == {"pnpm", "pnpx", "yarn", "yarnpkg", "bun"}


def test_the_hosts_registry_is_corepacks_too() -> None:
    registry, own = "https://npm.example.org", "https://corepack.example.org"
    assert environment({"NPM_CONFIG_REGISTRY": registry})["COREPACK_NPM_REGISTRY"] == registry
    both = {"npm_config_registry": registry, "COREPACK_NPM_REGISTRY": own, "COREPACK_INTEGRITY_KEYS": "{}"}
    assert both.items() - {("npm_config_registry", registry)} <= environment(both).items()
    assert "COREPACK_NPM_TOKEN" not in environment({"COREPACK_NPM_TOKEN": "secret"})
