"""Who may come in."""

from __future__ import annotations

import hashlib

import pytest

from protocol.errors import Forbidden, ToolError, Unauthorized
from tests.builder import exactly
from toolserver.wire.guard import Guard, presented_token, refuse_foreign_origin

TOKEN = "0123456789abcdef"

PRESENTED = [
    ({"Authorization": f"Bearer {TOKEN}"}, TOKEN),
    ({"Authorization": f"bearer  {TOKEN} "}, TOKEN),
    ({"X-Workspace-Token": TOKEN}, TOKEN),
    ({"Sec-WebSocket-Protocol": f"workspace.v1+json, bearer.{TOKEN}"}, TOKEN),
    ({"Authorization": "Basic eDp5", "X-Workspace-Token": TOKEN}, TOKEN),
    ({"Authorization": "Bearer a", "X-Workspace-Token": "b"}, "a"),
    ({"Authorization": "Bearer"}, None),
    ({"Authorization": "Bearer "}, None),
    ({"Sec-WebSocket-Protocol": "workspace.v1+json"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "token"), PRESENTED)
def test_a_token_is_found_wherever_it_may_stand(headers: dict[str, str], token: str | None) -> None:
    assert presented_token(headers) == token


@pytest.mark.parametrize("headers", [each for each, token in PRESENTED if token == TOKEN])
def test_the_right_token_comes_in(headers: dict[str, str]) -> None:
    Guard(TOKEN).admit(headers)


def test_no_token_is_told_how_to_give_one() -> None:
    message = "a token is needed: 'Authorization: Bearer TOKEN', or 'X-Workspace-Token: TOKEN'"
    with pytest.raises(Unauthorized, match=exactly(message)):
        Guard(TOKEN).admit({})


WRONG = [TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "", " ", "ü" * 16, "\udcff" * 16, "0" * 100_000]


@pytest.mark.parametrize("given", WRONG, ids=range(len(WRONG)))
def test_another_token_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        Guard(TOKEN).admit({"X-Workspace-Token": given})
    assert caught.value.message == "the token is not the one of this tool server"
    assert caught.value.details == {}


def test_a_token_is_known_by_its_digest_alone() -> None:
    guard = Guard(None, hashlib.sha256(TOKEN.encode()).hexdigest())
    guard.admit({"X-Workspace-Token": TOKEN})
    for given in (*WRONG, hashlib.sha256(TOKEN.encode()).hexdigest()):
        with pytest.raises(Unauthorized):
            guard.admit({"X-Workspace-Token": given})


def test_without_a_token_programs_on_this_machine_come_in() -> None:
    Guard(None).admit({"Host": "127.0.0.1:3001"})


FOREIGN = [
    ("https://evil.example", "127.0.0.1:3001"),
    ("http://127.0.0.1:3002", "127.0.0.1:3001"),
    ("http://localhost:3001", "127.0.0.1:3001"),
    ("null", "127.0.0.1:3001"),
    ("", "127.0.0.1:3001"),
    ("file://", "127.0.0.1:3001"),
    ("http://[::1", "127.0.0.1:3001"),
    ("http://127.0.0.1:3001.evil.example", "127.0.0.1:3001"),
    ("http://127.0.0.1:3001@evil.example", "127.0.0.1:3001"),
]


@pytest.mark.parametrize(("origin", "host"), FOREIGN)
def test_a_page_of_another_site_is_refused(origin: str, host: str) -> None:
    with pytest.raises(Forbidden, match=exactly(f"requests from pages of {origin!r} are not taken")):
        refuse_foreign_origin(origin, host)
    with pytest.raises(Forbidden):
        Guard(TOKEN).admit({"Origin": origin, "Host": host, "Authorization": f"Bearer {TOKEN}"})


@pytest.mark.parametrize(
    "host", ["127.0.0.1:3001", "localhost:3001", "[::1]:3001", "workspace.example", "a.of.example:8443"]
)
def test_a_page_of_our_own_comes_in(host: str) -> None:
    guard = Guard(TOKEN, hosts=["workspace.example", ".of.example"])
    guard.admit({"Origin": f"http://{host}", "Host": host, "X-Workspace-Token": TOKEN})


UNLISTED = ["workspace.example", "evil.example:3001", "workspace.example.evil.example", "of.example", "[bad"]


@pytest.mark.parametrize("host", UNLISTED)
def test_a_page_under_a_name_that_is_not_listed_is_refused_with_the_token_too(host: str) -> None:
    """A page may make its own name point here, and wait for somebody to paste a token into it."""
    for hosts in ([], [".of.example", "other.example"]):
        with pytest.raises(Forbidden):
            Guard(TOKEN, hosts=hosts).admit(
                {"Origin": f"http://{host}", "Host": host, "X-Workspace-Token": TOKEN}
            )


@pytest.mark.parametrize("host", ["workspace.example", "sandbox-3001.proxy.example:443", "tools"])
def test_a_program_with_the_token_may_use_any_name_until_names_are_listed(host: str) -> None:
    headers = {"Host": host, "X-Workspace-Token": TOKEN}
    Guard(TOKEN).admit(headers)
    message = f"calls by the name {host!r} are not taken; TOOL_SERVER_ALLOWED_HOSTS lists those that are"
    with pytest.raises(Forbidden, match=exactly(message)):
        Guard(TOKEN, hosts=["listed.example"]).admit(headers)
    Guard(TOKEN, hosts=[host.partition(":")[0]]).admit(headers)


@pytest.mark.parametrize("host", ["127.0.0.1:3001", "localhost", "10.0.0.7:3001", "[fd00::1]:3001", ""])
def test_addresses_and_loopback_need_no_listing(host: str) -> None:
    Guard(TOKEN, hosts=["listed.example"]).admit({"Host": host, "X-Workspace-Token": TOKEN})


LISTED = "https://app.example:8443"


def test_a_page_that_is_listed_comes_in_with_the_token_only() -> None:
    guard = Guard(TOKEN, origins=[LISTED])
    headers = {"Origin": LISTED, "Host": "127.0.0.1:3001"}
    guard.admit({**headers, "X-Workspace-Token": TOKEN})
    with pytest.raises(Unauthorized):
        guard.admit(headers)


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example",
        "http://app.example:8443",
        "https://app.example:8443/",
        "https://APP.example:8443",
        "null",
    ],
)
def test_a_page_is_listed_by_scheme_name_and_port(origin: str) -> None:
    headers = {"Origin": origin, "Host": "127.0.0.1:3001", "X-Workspace-Token": TOKEN}
    with pytest.raises(Forbidden):
        Guard(TOKEN, origins=[LISTED]).admit(headers)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:3001", "localhost:3001", "LOCALHOST", "[::1]:3001", "ws.localhost:3001", ""]
)
def test_without_a_token_the_names_of_this_machine_come_in(host: str) -> None:
    Guard(None).admit({"Host": host})


@pytest.mark.parametrize(
    "host", ["evil.example:3001", "127.0.0.1.evil.example", "localhost.evil.example:3001", "[bad"]
)
def test_without_a_token_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    """A page may make its own name point to 127.0.0.1: then its origin and the host are the same."""
    with pytest.raises(ToolError) as caught:
        Guard(None).admit({"Host": host, "Origin": f"http://{host}"})
    assert isinstance(caught.value, Forbidden)
