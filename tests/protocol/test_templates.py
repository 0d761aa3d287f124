"""template.json, and what a directory without one says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import InvalidRequest
from protocol.messages.devserver import HttpProbe, Readiness
from protocol.templates import (
    StaticSite,
    Template,
    dev_command,
    dev_options,
    filled,
    parse_template,
)
from tests.builder import exactly


def test_everything_is_optional() -> None:
    assert parse_template(b"{}") == Template()
    assert parse_template(b"\xef\xbb\xbf{}") == Template(), "as editors on Windows write it"


def test_a_whole_one_is_read() -> None:
    template = parse_template(
        b"""{
        "id": "x", "version": "1.0.0", "name": "X", "description": "an X", "packageManager": "pnpm@10",
        "installCommand": "make", "devCommand": "serve {host} {port}", "port": 8080,
        "readiness": {"http": {"path": "/up"}, "timeoutMs": 5000}, "env": {"A": "b"},
        "ports": [{"port": 9000, "name": "api"}],
        "files": {"required": ["a"], "exclude": ["b"]}, "archive": {"exclude": ["c"], "include": ["d"]}
        }"""
    )
    assert template.readiness == Readiness(http=HttpProbe(path="/up"), timeout_ms=5000)
    dev, install = template.dev_request(), template.install_request()
    assert (dev.command, dev.port, dev.env, dev.readiness) == (
        "serve {host} {port}",
        8080,
        {"A": "b"},
        template.readiness,
    )
    assert (install.command, install.package_manager, install.env) == ("make", "pnpm@10", {"A": "b"})


REFUSED = [
    (b"", "template.json: the file is not valid JSON: input data was truncated"),
    (b"[]", "template.json: expected 'object', got 'array'"),
    (b'{"prt": 1}', "template.json: unknown field 'prt'; did you mean 'port'?"),
    (b'{"port": "1"}', "template.json: expected 'int | null', got 'str' in 'port'"),
    (b'{"readiness": {"htp": {}}}', "template.json: unknown field 'readiness.htp'; did you mean 'http'?"),
    (b'{"ports": [{}]}', "template.json: required field 'ports[0].port' is missing"),
    (
        b'{"readiness": {"port": true, "file": {"path": "x"}}}',
        "template.json: readiness takes one kind, not port and file",
    ),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_a_wrong_one_is_told(content: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=exactly(message)):
        parse_template(content)


COMMANDS: list[tuple[dict[str, Any] | None, list[str], Any]] = [
    (None, [], None),
    (None, ["index.html"], StaticSite()),
    ({}, ["index.html"], StaticSite()),
    ({}, [], None),
    ({"scripts": {"build": "x"}}, [], None),
    ({"scripts": None}, [], None),
    ({"scripts": {"dev": "vite"}}, [], "npm run dev -- --host {host} --port {port} --strictPort"),
    ({"scripts": {"dev": "astro dev"}}, [], "npm run dev -- --host {host} --port {port}"),
    ({"scripts": {"dev": "next dev"}}, ["pnpm-lock.yaml"], "pnpm run dev --hostname {host} --port {port}"),
    ({"scripts": {"start": "node server.js"}}, [], "npm run start"),
    ({"scripts": {"dev": "a", "start": "b"}}, [], "npm run dev"),
]


@pytest.mark.parametrize(("package", "names", "expected"), COMMANDS)
def test_the_dev_server_is_found(package: dict[str, Any] | None, names: list[str], expected: Any) -> None:
    assert dev_command(package, names) == expected


@pytest.mark.parametrize("script", ["echo 'unclosed", "invite", "my-vite-thing", ""])
def test_a_script_that_only_looks_like_one_gets_no_options(script: str) -> None:
    assert dev_options(script) == ""


def test_only_our_placeholders_are_filled() -> None:
    assert filled("{host}:{port} ${HOME} {other} {{port}}", "h", 1) == "h:1 ${HOME} {other} {1}"
