"""Tokens as the host makes them, believed by those who have to believe them, and by nobody else."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from orchestrator.keys import KeyRing
from orchestrator.paths import PathManager
from orchestrator.tokens import Grant, mint, signed_address, verify_preview
from protocol.errors import Forbidden, InvalidRequest, ToolError, Unauthorized
from protocol.tokens import LEEWAY_SECONDS, Scope

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
GRANT = Grant("s1", "ann", [Scope.WRITE, Scope.READ], "./src/", 4321)


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing.open(PathManager(tmp_path / "data"))


def opened(ring: KeyRing, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload, once the signature was found good by the standard's own words."""
    body, _, signature = token.rpartition(".")
    header, payload = (json.loads(unpadded(each)) for each in body.split("."))
    Ed25519PublicKey.from_public_bytes(ring.active.raw).verify(unpadded(signature), body.encode())
    return header, payload


def unpadded(part: str) -> bytes:
    assert "=" not in part
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_a_token_is_a_compact_jws_of_what_was_granted(ring: KeyRing) -> None:
    granted = mint(ring, GRANT, HOUR, NOW)
    header, payload = opened(ring, granted.token)
    assert header == {"alg": "EdDSA", "kid": ring.active.id, "typ": "workspace-session+jwt"}
    made = int(NOW.timestamp())
    assert payload == {
        "sid": "s1",
        "sub": "ann",
        "jti": granted.claims.jti,
        "iat": made,
        "nbf": made,
        "exp": made + 3600,
        "scopes": ["read", "write"],
        "path": "src",
        "port": 4321,
    }
    assert mint(ring, GRANT, HOUR, NOW).claims.jti != granted.claims.jti


def test_a_token_is_not_shown_by_accident(ring: KeyRing) -> None:
    granted = mint(ring, GRANT, HOUR)
    assert granted.token not in repr(granted)


@pytest.mark.parametrize(
    ("grant", "lives", "message"),
    [
        (GRANT, timedelta(hours=25), "it is good for 1 to 86400 seconds, not for 90000"),
        (GRANT, timedelta(0), "it is good for 1 to 86400 seconds, not for 0"),
        (Grant("s1", "ann", port=0), HOUR, "a port is a number from 1 to 65535, not 0"),
        (Grant("s1", "ann", path="../x"), HOUR, "'../x' is outside the workspace"),
    ],
)
def test_what_nobody_would_take_is_not_made(
    ring: KeyRing, grant: Grant, lives: timedelta, message: str
) -> None:
    with pytest.raises(ToolError, match=f"^{message}"):
        mint(ring, grant, lives)


@pytest.mark.parametrize(
    ("path", "method", "options", "address"),
    [
        ("a b/ü.txt", "GET", {}, "http://h:1/v1/files/a%20b/%C3%BC.txt"),
        (".", "GET", {"format": "zstd"}, "http://h:1/v1/archive"),
        ("x?y#z", "PUT", {"mode": "600"}, "http://h:1/v1/files/x%3Fy%23z"),
    ],
)
def test_an_address_names_one_request(
    ring: KeyRing, path: str, method: str, options: dict[str, str], address: str
) -> None:
    url = signed_address(ring, "http://h:1/", Grant("s1", "ann", path=path), method, HOUR, options, NOW)
    parts = urlsplit(url)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == address
    query = dict(parse_qsl(parts.query))
    header, payload = opened(ring, query.pop("ticket"))
    assert (query, header["typ"]) == (options, "workspace-ticket+jwt")
    door = "/v1/archive" if path == "." else f"/v1/files/{path}"
    assert (payload["method"], payload["path"], payload.get("options", {})) == (method, door, options)
    assert payload["exp"] - payload["iat"] == 3600
    assert "scopes" not in payload


def test_an_address_is_for_now_and_for_a_file_or_an_archive(ring: KeyRing) -> None:
    with pytest.raises(InvalidRequest, match="it is good for 1 to 3600 seconds, not for 3601"):
        signed_address(ring, "http://h", GRANT, "GET", timedelta(seconds=3601))
    with pytest.raises(InvalidRequest, match="an address is signed for GET or PUT, not for 'DELETE'"):
        signed_address(ring, "http://h", GRANT, "DELETE", HOUR)


class TestPreview:
    """For who stands before a dev server."""

    def seen(self, ring: KeyRing, token: str, session: str = "s1", port: int = 4321, later: float = 0) -> str:
        return verify_preview(ring.public_keys(), token, session, port, NOW + timedelta(seconds=later)).sub

    def test_a_token_for_its_port_is_good(self, ring: KeyRing) -> None:
        assert self.seen(ring, mint(ring, GRANT, HOUR, NOW).token, later=3600 + LEEWAY_SECONDS) == "ann"

    def test_one_that_an_older_key_signed_is_good_too(self, ring: KeyRing) -> None:
        token = mint(ring, GRANT, HOUR, NOW).token
        ring.rotate()
        assert self.seen(ring, token) == "ann"

    def test_another_port_session_key_or_time_is_not(self, ring: KeyRing, tmp_path: Path) -> None:
        token = mint(ring, GRANT, HOUR, NOW).token
        with pytest.raises(Forbidden, match="not for the pages at port 4322"):
            self.seen(ring, token, port=4322)
        with pytest.raises(Unauthorized, match="another session"):
            self.seen(ring, token, session="s2")
        with pytest.raises(Unauthorized, match="expired 100 seconds ago"):
            self.seen(ring, token, later=3700)
        others = KeyRing.open(PathManager(tmp_path / "other"))
        for wrong in (mint(others, GRANT, HOUR, NOW).token, token[:-8] + "AAAAAAAA"):
            with pytest.raises(Unauthorized, match="by none of this orchestrator's keys"):
                self.seen(ring, wrong)

    def test_a_token_without_a_port_shows_no_page(self, ring: KeyRing) -> None:
        with pytest.raises(Forbidden):
            self.seen(ring, mint(ring, Grant("s1", "ann", list(Scope)), HOUR, NOW).token)
