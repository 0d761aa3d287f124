"""Which package manager a directory wants, and what it is asked."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import InvalidRequest
from protocol.package_managers import install_commands, is_modern_yarn, offline_environment, package_manager
from tests.builder import exactly

MANAGERS: list[tuple[dict[str, Any], list[str], str]] = [
    ({}, [], "npm"),
    ({}, ["package-lock.json"], "npm"),
    ({}, ["pnpm-lock.yaml"], "pnpm"),
    ({}, ["yarn.lock"], "yarn"),
    ({}, ["bun.lockb"], "bun"),
    ({"packageManager": "pnpm@10.2.0+sha512.abc"}, [], "pnpm"),
    ({"packageManager": "pnpm@10"}, ["package-lock.json"], "npm"),
    ({"packageManager": "cargo"}, ["package-lock.json"], "npm"),
]


@pytest.mark.parametrize(("package", "names", "expected"), MANAGERS)
def test_the_lock_file_tells_the_package_manager(
    package: dict[str, Any], names: list[str], expected: str
) -> None:
    assert package_manager(package, names) == expected


@pytest.mark.parametrize("manager", ["npm", "pnpm", "yarn", "bun"])
def test_a_lock_file_is_tried_strictly_first(manager: str) -> None:
    lock = {"npm": "package-lock.json", "pnpm": "pnpm-lock.yaml", "yarn": "yarn.lock", "bun": "bun.lock"}[
        manager
    ]
    strict, plain = install_commands(manager, [lock])
    assert strict != plain
    assert install_commands(manager, []) == [plain]


def test_offline_asks_nobody() -> None:
    assert all("--offline" in line for line in install_commands("npm", ["package-lock.json"], offline=True))
    assert not any(
        "--prefer-offline" in line for line in install_commands("npm", ["package-lock.json"], True)
    )


@pytest.mark.parametrize("said", ["cargo", "cargo@1.2.3", "", "PNPM@10", 7, ["npm"], "pnpm10"])
def test_a_package_manager_that_nobody_knows_is_told_with_those_that_are(said: object) -> None:
    message = (
        f"packageManager in package.json is {said!r}; it has to be one of npm, pnpm, yarn, bun, "
        "with or without a version such as npm@11.4.0"
    )
    with pytest.raises(InvalidRequest, match=exactly(message)):
        package_manager({"packageManager": said}, ["package.json"])


@pytest.mark.parametrize("named", [None, "yarn", 7, "pnpm@10.2.0", "yarn@1.22.22"])
def test_a_yarn_that_is_not_pinned_is_a_first_one(named: object) -> None:
    assert not is_modern_yarn({"packageManager": named}, ["yarn.lock"])


def test_no_install_without_network_prefers_anything() -> None:
    for manager in ("npm", "pnpm", "yarn", "bun"):
        for names in (["package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock"], []):
            assert not any("prefer" in line for line in install_commands(manager, names, offline=True))
        assert offline_environment(manager)["npm_config_offline"] == "true"
