"""template.json of before, in today's form: what moves, what is left out, and that it is told."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from protocol.errors import InvalidRequest
from protocol.template_migration import MOVES, migrated
from protocol.templates import Template, parse_template

OLD: dict[str, Any] = {
    "metadata": {
        "id": "shop",
        "displayName": "Shop",
        "description": "A storefront.",
        "version": "1.2.0",
        "tags": ["web"],
    },
    "build": {
        "packageManager": "pnpm",
        "installCommand": "pnpm install",
        "baseImage": "node:20",
        "env": {"A": 1},
    },
    "development": {
        "devCommand": "pnpm dev --host {{host}} --port {{port}}",
        "port": 4321,
        "healthCheck": "/up",
        "startupTimeoutMs": 30000,
        "environment": {"B": "two"},
        "hotReload": True,
    },
    "files": {"required": ["package.json"], "exclude": ["notes"], "ignore": ["notes", "tmp"]},
    "dependencies": {"react": "^18.0.0", "left-pad": "1.3.0"},
}


def test_every_group_moves_to_its_place_of_today() -> None:
    assert migrated(OLD).template == {
        "id": "shop",
        "version": "1.2.0",
        "name": "Shop",
        "description": "A storefront.",
        "packageManager": "pnpm",
        "installCommand": "pnpm install",
        "devCommand": "pnpm dev --host {host} --port {port}",
        "port": 4321,
        "readiness": {"http": {"path": "/up"}, "timeoutMs": 30000},
        "env": {"A": "1", "B": "two"},
        "files": {"required": ["package.json"], "exclude": ["notes", "tmp"]},
    }


def test_everything_that_is_left_out_is_told_with_its_reason() -> None:
    assert set(migrated(OLD, {"dependencies": {"react": "19.0.0"}}).remarks) == {
        "metadata.tags is left out: a template has no such field",
        "build.baseImage is left out: one image serves all templates, and nothing is built before a start",
        "development.hotReload is left out: the tool server takes care of it",
        "dependencies is left out: package.json is where packages are named",
        "dependencies names left-pad 1.3.0, and package.json does not: add it there",
    }


def test_packages_that_stand_in_groups_are_found_too() -> None:
    old = {"dependencies": {"dependencies": {"a": "1"}, "devDependencies": {"b": "2"}}}
    remarks = migrated(old, {"devDependencies": {"a": "1"}}).remarks
    assert [remark for remark in remarks if "names" in remark] == [
        "dependencies names b 2, and package.json does not: add it there"
    ]


def test_what_comes_of_it_is_read_like_any_other() -> None:
    template = parse_template(json.dumps(migrated(OLD).template).encode())
    assert (template.id, template.port, template.readiness.timeout_ms) == ("shop", 4321, 30000)


@pytest.mark.parametrize("said", [{}, {"id": "x"}, {"files": {"required": []}}, {"metadata": "x"}])
def test_one_of_today_is_not_migrated(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="in today's form already"):
        migrated(said)


def test_a_field_of_today_comes_before_an_old_one() -> None:
    done = migrated(
        {
            "name": "Now",
            "metadata": {"title": "Then"},
            "readiness": {"port": True},
            "development": {"healthCheck": "/"},
        }
    )
    assert done.template == {"name": "Now", "readiness": {"port": True}}
    assert set(done.remarks) == {
        "metadata.title is left out: name is there already",
        "development.healthCheck is left out: readiness is there already",
    }


def test_of_two_that_say_the_same_the_first_counts_and_the_other_is_told() -> None:
    done = migrated({"development": {"command": "a {port}", "start": "b"}})
    assert done.template == {"devCommand": "a {port}"}
    assert done.remarks == ("development.start is left out: development.command says it",)


@pytest.mark.parametrize(
    "old",
    [
        {"metadata": {"name": 7}},
        {"development": {"port": "4321"}},
        {"development": {"readiness": "soon"}},
        {"metadata": {}, "surprise": 1},
    ],
)
def test_what_has_no_valid_place_is_refused_and_not_guessed(old: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"template\.json: "):
        migrated(old)


def test_every_move_ends_at_a_field_of_today() -> None:
    fields = {name.partition(".")[0] for name in MOVES}
    renamed = {field.encode_name for field in msgspec.structs.fields(Template)}
    assert fields <= renamed


def test_starting_from_an_older_one_names_the_command_that_rewrites_it() -> None:
    with pytest.raises(InvalidRequest, match="rewrite it by `workspace template migrate DIR --write`"):
        parse_template(json.dumps(OLD).encode())
