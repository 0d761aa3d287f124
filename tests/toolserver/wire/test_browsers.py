"""What browsers are told, on every kind of answer; and that no cookie is ever part of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builder import Daemon, http_of, running, socket_of

LISTED = "https://app.example"
EVERY_ANSWER = [
    ("GET", "/health", 200),
    ("GET", "/ready", 200),
    ("GET", "/", 200),
    ("GET", "/openapi.json", 200),
    ("POST", "/v1/list", 200),
    ("POST", "/v1/read", 400),
    ("POST", "/v1/nothing", 404),
    ("PUT", "/v1/files/a.txt", 200),
    ("GET", "/v1/files/a.txt", 200),
    ("HEAD", "/v1/files/a.txt", 200),
    ("GET", "/v1/files/nothing", 404),
    ("GET", "/v1/archive", 200),
    ("GET", "/nowhere", 404),
    ("PATCH", "/v1/list", 400),
    ("OPTIONS", "/v1/list", 400),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    listed = {"TOOL_SERVER_ALLOWED_ORIGINS": f"{LISTED},http://localhost:5173"}
    with running(tmp_path_factory.mktemp("browsers"), **listed) as daemon:
        (daemon.root / "a.txt").write_text("a\n")
        yield daemon


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With no page listed, as it comes."""
    with running(tmp_path_factory.mktemp("closed")) as daemon:
        yield daemon


@pytest.mark.parametrize(("method", "path", "status"), EVERY_ANSWER)
@pytest.mark.parametrize("token", ["good", "none"])
async def test_every_answer_says_what_it_is_not_for(
    daemon: Daemon, method: str, path: str, status: int, token: str
) -> None:
    given = {} if token == "good" else {"Authorization": ""}
    sent = {"Cookie": "session=1", "Origin": LISTED}
    async with http_of(daemon, **given) as http:
        data = b"a\n" if method == "PUT" else None
        async with http.session.request(method, path, data=data, headers=sent) as response:
            headers = response.headers
    if token == "good":
        assert response.status in (status, 405), response.status
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] in ("no-store", "no-cache")
    assert headers["Access-Control-Allow-Origin"] == LISTED
    assert "Origin" in headers["Vary"]
    assert not {"Set-Cookie", "Access-Control-Allow-Credentials"} & set(headers)


async def test_a_cookie_lets_nobody_in(daemon: Daemon) -> None:
    """The preview may share this host's cookies, which know no ports: none is ever read here."""
    async with http_of(
        daemon, Authorization="", Cookie=f"token={daemon.token}; bearer={daemon.token}"
    ) as http:
        assert (await http.refused("list")).status == 401


@pytest.mark.parametrize("origin", [LISTED, "http://localhost:5173"])
async def test_a_listed_page_may_ask_first(daemon: Daemon, origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    async with http_of(daemon, Authorization="") as http:
        async with http.session.options("/v1/files/a.txt", headers=asked) as response:
            assert response.status == 204
            headers = response.headers
    assert headers["Access-Control-Allow-Origin"] == origin
    assert "PUT" in headers["Access-Control-Allow-Methods"]
    assert "Authorization" in headers["Access-Control-Allow-Headers"]
    assert "X-Workspace-Token" in headers["Access-Control-Allow-Headers"]
    assert "ETag" in headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in headers


async def test_a_page_that_is_not_listed_is_told_nothing(daemon: Daemon, closed: Daemon) -> None:
    for each, origin in ((daemon, "https://evil.example"), (closed, LISTED), (daemon, "null")):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with http_of(each) as http:
            for method in ("OPTIONS", "POST"):
                async with http.session.request(method, "/v1/list", headers=asked) as response:
                    assert response.status == 403
                    assert not [name for name in response.headers if name.startswith("Access-Control-")]


async def test_a_listed_page_may_open_a_socket_and_another_may_not(daemon: Daemon, closed: Daemon) -> None:
    async with socket_of(daemon, Origin=LISTED) as socket:
        await socket.ok("list")
    for each, origin in ((daemon, "https://evil.example"), (closed, LISTED)):
        async with http_of(each) as http:
            async with http.session.get("/v1/ws", headers={"Origin": origin}) as response:
                assert response.status == 403


async def test_without_a_list_nothing_is_said_of_origins(closed: Daemon) -> None:
    async with http_of(closed) as http:
        async with http.session.get("/health") as response:
            assert not {"Vary", "Access-Control-Allow-Origin"} & set(response.headers)


async def test_a_name_that_is_not_listed_is_refused_on_both_doors(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    listed = {"TOOL_SERVER_ALLOWED_HOSTS": "ws.example"}
    with running(tmp_path_factory.mktemp("names"), **listed) as daemon:
        for host, status in (("ws.example", 200), ("evil.example", 403), (f"127.0.0.1:{daemon.port}", 200)):
            async with http_of(daemon, Host=host) as http:
                async with http.session.post("/v1/list", json={}) as response:
                    assert response.status == status
                async with http.session.get("/v1/ws") as response:
                    assert response.status == (403 if status == 403 else 400)
