"""Which tokens are believed: forgeries of every kind, and the clock."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.errors import Busy, Conflict, Forbidden, Unauthorized
from protocol.limits import Limits
from protocol.messages.access import BindSession, Revoke
from protocol.paths import WorkspacePath
from protocol.tokens import LEEWAY_SECONDS, MAX_TOKEN_SECONDS, Scope
from tests.builder import PATIENCE_SECONDS, exactly, until
from tests.signing import ALL, Signer, part
from toolserver.system.token_memory import TokenMemory
from toolserver.tools.access import Access
from toolserver.tools.admission import STATIC, Admission
from toolserver.tools.call import Call
from toolserver.tools.presence import Presence
from toolserver.tools.tokens import KeysWanted, Tokens, load_verifier

SIGNER, OTHER = Signer(), Signer()
UNKNOWN = "the token's signature is by none of the keys that this tool server knows"
NO_TOKEN = "the token is not one of this tool server, nor one that its orchestrator signed"


def tokens_of(state: Path, *signers: Signer, session: str | None = "s1") -> Tokens:
    tokens = Tokens(TokenMemory(state), [each.raw for each in signers or (SIGNER,)], session)
    tokens.load()
    return tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return tokens_of(tmp_path)


def test_a_good_token_says_who_comes_and_what_they_may(tokens: Tokens) -> None:
    claims = SIGNER.claims("read", "dev", path="src", port=4321)
    assert tokens.believe(SIGNER.signed(claims)) == Admission(
        who="ann",
        scopes=frozenset({Scope.READ, Scope.DEV}),
        path=WorkspacePath("src"),
        token_id=claims["jti"],
        expires=claims["exp"] + LEEWAY_SECONDS,
        port=4321,
    )


def test_keys_are_not_read_before_a_token_asks_for_them(tmp_path: Path) -> None:
    tokens = Tokens(TokenMemory(tmp_path), [SIGNER.raw], "s1")
    with pytest.raises(KeysWanted):
        tokens.believe(SIGNER.token())
    with pytest.raises(Unauthorized):  # what is no token at all waits for none
        tokens.believe("hello")
    tokens.load()
    assert tokens.believe(SIGNER.token()).who == "ann"


@pytest.mark.parametrize("kid", [SIGNER.id, None], ids=["named", "not named"])
def test_any_of_several_keys_signs(tmp_path: Path, kid: str | None) -> None:
    tokens = tokens_of(tmp_path, OTHER, SIGNER)
    assert tokens.believe(SIGNER.signed(SIGNER.claims("read"), kid=kid)).scopes == {Scope.READ}


def swapped() -> str:
    header, _, signature = SIGNER.token("read").split(".")
    return f"{header}.{part(SIGNER.claims(*ALL))}.{signature}"


def doubled() -> str:
    said = json.dumps(SIGNER.claims("read"))
    return SIGNER.signed(f'{said[:-1]}, "sub": "root"}}'.encode())


FORGERIES: dict[str, tuple[Callable[[], str], str]] = {
    "no algorithm": (
        lambda: f"{part({'alg': 'none', 'typ': 'workspace-session+jwt'})}.{part(SIGNER.claims(*ALL))}.",
        "the token is signed by 'none'; only EdDSA is taken",
    ),
    "the public key as a shared secret": (
        lambda: SIGNER.by_secret(SIGNER.claims(*ALL)),
        "the token is signed by 'HS256'; only EdDSA is taken",
    ),
    "another key": (lambda: OTHER.token(*ALL), UNKNOWN),
    "another key under a known name": (lambda: OTHER.signed(OTHER.claims(*ALL), kid=SIGNER.id), UNKNOWN),
    "another key under no name": (lambda: OTHER.signed(OTHER.claims(*ALL), kid=None), UNKNOWN),
    "swapped claims": (swapped, UNKNOWN),
    "no signature": (lambda: SIGNER.token().rpartition(".")[0] + ".", UNKNOWN),
    "half a signature": (lambda: SIGNER.token()[:-40], UNKNOWN),
    "a signature of what is no base64": (lambda: SIGNER.token() + "!", UNKNOWN),
    "an extension that must be understood": (
        lambda: SIGNER.signed(SIGNER.claims(*ALL), crit=["b64"], b64=False),
        "the token's header has 'b64', which is not known here",
    ),
    "a key of its own": (
        lambda: OTHER.signed(OTHER.claims(*ALL), jwk={"kty": "OKP"}),
        "the token's header has 'jwk', which is not known here",
    ),
    "a key's name that is none": (
        lambda: SIGNER.signed(SIGNER.claims(), kid=["a"]),
        "the token's 'kid' is no string",
    ),
    "two algorithms": (
        lambda: SIGNER.signed_under(b'{"alg":"none","alg":"EdDSA"}', SIGNER.claims(*ALL)),
        "the token says 'alg' twice",
    ),
    "two users": (doubled, "the token says 'sub' twice"),
    "another session": (lambda: SIGNER.token(*ALL, sid="s2"), "the token is for another session"),
    "a signed address": (
        lambda: SIGNER.ticket("GET", "/v1/archive"),
        "the token is of the type 'workspace-ticket+jwt', and 'workspace-session+jwt' is needed",
    ),
    "no type": (
        lambda: SIGNER.signed(SIGNER.claims(*ALL), typ=None),
        "the token is of the type 'None', and 'workspace-session+jwt' is needed",
    ),
    "too long": (
        lambda: "x" * 5000,
        "the token has 5000 characters; the limit is 4096",
    ),
    "no token": (lambda: "hello", NO_TOKEN),
    "nothing": (lambda: "", NO_TOKEN),
    "four parts": (lambda: SIGNER.token() + ".a", NO_TOKEN),
    "no JSON": (lambda: SIGNER.signed_under(b"alg", SIGNER.claims()), NO_TOKEN),
    "a list": (lambda: SIGNER.signed_under(b"[]", SIGNER.claims()), NO_TOKEN),
    "nested deeply": (lambda: SIGNER.signed_under(b"[" * 2500, {}), NO_TOKEN),
    "claims that are no JSON": (lambda: SIGNER.signed(b"\xff"), "the token's claims are not JSON"),
    "a claim that is not known": (
        lambda: SIGNER.token(aud="x"),
        "the token's claims are not ones that are known here: Object contains unknown field `aud`",
    ),
    "a scope that is not known": (
        lambda: SIGNER.token("root"),
        "the token's claims are not ones that are known here: Invalid enum value 'root' - at `$.scopes[0]`",
    ),
    "half a character": (lambda: "\udcff" * 20, NO_TOKEN),
    "a path that climbs out": (
        lambda: SIGNER.token(path="../x"),
        "the token's path '../x' is not a workspace path in normal form",
    ),
    "a path in another form": (
        lambda: SIGNER.token(path="src/"),
        "the token's path 'src/' is not a workspace path in normal form",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_with_its_reason(tokens: Tokens, name: str) -> None:
    make, message = FORGERIES[name]
    with pytest.raises(Unauthorized, match=exactly(message)):
        tokens.believe(make())


@pytest.mark.parametrize("name", ["sid", "sub", "jti", "iat", "nbf", "exp"])
def test_every_claim_but_what_it_is_good_for_has_to_be_there(tokens: Tokens, name: str) -> None:
    with pytest.raises(Unauthorized, match=f"missing required field `{name}`"):
        tokens.believe(SIGNER.signed(SIGNER.claims(**{name: None})))


@pytest.mark.parametrize("jti", ["", "a b", "ä", "a\n", "a" * 201])
def test_a_token_that_could_not_be_revoked_is_refused(tokens: Tokens, jti: str) -> None:
    with pytest.raises(Unauthorized, match=r"not ones that are known here.*jti"):
        tokens.believe(SIGNER.token("read", jti=jti))


class TestTheClock:
    """Tokens of 600 seconds, made at 1000, judged at any time."""

    def believed_at(self, state: Path, now: float, **more: int) -> Admission:
        tokens = Tokens(TokenMemory(state), [SIGNER.raw], "s1", lambda: now)
        tokens.load()
        return tokens.believe(SIGNER.token("read", **{"iat": 1000, "nbf": 1000, "exp": 1600, **more}))

    @pytest.mark.parametrize("now", [1000 - LEEWAY_SECONDS, 1000, 1600, 1600 + LEEWAY_SECONDS])
    def test_two_clocks_may_differ_a_little(self, tmp_path: Path, now: float) -> None:
        assert self.believed_at(tmp_path, now).who == "ann"

    @pytest.mark.parametrize(
        ("now", "more", "message"),
        [
            (1631, {}, "the token expired 31 seconds ago: fetch a new one"),
            (969, {}, "the token is not good before 31 seconds from now; or a clock is wrong"),
            (1000, {"nbf": 1100}, "the token is not good before 100 seconds from now; or a clock is wrong"),
            (1000, {"iat": 1100}, "the token is not good before 100 seconds from now; or a clock is wrong"),
            (
                1000,
                {"exp": 1001 + MAX_TOKEN_SECONDS},
                f"the token is made for {MAX_TOKEN_SECONDS + 1} seconds; the limit is {MAX_TOKEN_SECONDS}",
            ),
            (1000, {"exp": 1000}, f"the token is made for 0 seconds; the limit is {MAX_TOKEN_SECONDS}"),
        ],
    )
    def test_outside_its_time_it_is_refused(
        self, tmp_path: Path, now: float, more: dict[str, int], message: str
    ) -> None:
        with pytest.raises(Unauthorized, match=exactly(message)):
            self.believed_at(tmp_path, now, **more)

    def test_one_that_was_good_is_refused_once_it_is_over(self, tmp_path: Path) -> None:
        times = iter([1000.0, 1700.0])
        tokens = Tokens(TokenMemory(tmp_path), [SIGNER.raw], "s1", lambda: next(times))
        tokens.load()
        token = SIGNER.token(iat=1000, nbf=1000, exp=1600)
        tokens.believe(token)
        with pytest.raises(Unauthorized, match="expired 100 seconds ago"):
            tokens.believe(token)


async def test_what_is_revoked_stays_so_over_a_restart(tmp_path: Path) -> None:
    tokens, token = tokens_of(tmp_path), SIGNER.token(jti="gone")
    tokens.believe(token)
    await tokens.revoke("gone")
    for each in (tokens, tokens_of(tmp_path)):
        with pytest.raises(Unauthorized, match=exactly("the token was revoked: fetch a new one")):
            each.believe(token)
    assert tokens.believe(SIGNER.token()).who == "ann"


async def test_many_are_revoked_at_once(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path)
    await asyncio.gather(*(tokens.revoke(f"t{number}") for number in range(50)))
    assert all(TokenMemory(tmp_path).is_spent(f"t{number}") for number in range(50))


def test_what_is_remembered_is_bounded_and_forgotten_once_it_is_over(tmp_path: Path) -> None:
    memory = TokenMemory(tmp_path)
    for number in range(Limits().max_spent_tokens):
        assert memory.spend(f"t{number}", until=100 + number % 2, now=0)
    assert not memory.spend("t0", until=100, now=0)
    with pytest.raises(Busy, match="is the limit"):
        memory.spend("one more", until=200, now=100)
    assert memory.spend("one more", until=200, now=101)
    assert (memory.is_spent("t0"), memory.is_spent("t1")) == (False, True)


def test_who_revokes_too_much_is_refused_and_addresses_go_on(tmp_path: Path) -> None:
    """Nothing is forgotten to make room: it would be good again."""
    memory = TokenMemory(tmp_path, max_spent=8)
    for number in range(6):
        memory.revoke(f"t{number}", until=100, now=0)
    with pytest.raises(Busy, match="6 revoked tokens are remembered") as refused:
        memory.revoke("one more", until=200, now=0)
    assert refused.value.details["limit"] == "maxSpentTokens"
    assert all(memory.is_spent(f"t{number}") for number in range(6))
    memory.revoke("t0", until=100, now=0)
    assert memory.spend("address", until=50, now=0)
    memory.revoke("one more", until=200, now=101)
    assert (memory.is_spent("t0"), memory.is_spent("one more")) == (False, True)


async def test_when_every_key_is_another_nothing_revoked_has_to_be_remembered(tmp_path: Path) -> None:
    tokens, newer = tokens_of(tmp_path), Signer()
    await tokens.revoke("gone")
    for keys, kept in (([SIGNER.raw, newer.raw], True), ([newer.raw], True), ([Signer().raw], False)):
        await tokens.bind(BindSession(session_id="s1"), keys, STATIC)
        assert TokenMemory(tmp_path).is_spent("gone") is kept


async def test_a_token_that_comes_while_the_keys_change_is_not_believed_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, token, loop = tokens_of(tmp_path), SIGNER.token(), asyncio.get_running_loop()
    load, came = load_verifier, threading.Event()

    def come() -> None:
        tokens.believe(token)
        came.set()

    def slowly() -> None:
        loop.call_soon_threadsafe(come)
        assert came.wait(PATIENCE_SECONDS)
        load()

    with monkeypatch.context() as patched:
        patched.setattr("toolserver.tools.tokens.load_verifier", slowly)
        binding = asyncio.create_task(tokens.bind(BindSession(session_id="s1"), [OTHER.raw], STATIC))
        await until(came.is_set)
        patched.setattr("toolserver.tools.tokens.load_verifier", load)
        await binding
    with pytest.raises(Unauthorized, match=UNKNOWN):
        tokens.believe(token)


class SlowMemory(TokenMemory):
    """A disk that takes its time."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.begun, self.let = threading.Event(), threading.Event()

    def save(self, image: bytes) -> None:
        self.begun.set()
        assert self.let.wait(PATIENCE_SECONDS)
        super().save(image)


async def test_who_revokes_and_hangs_up_has_revoked_on_the_disk_and_closed_what_was_open(
    tmp_path: Path,
) -> None:
    memory, ended = SlowMemory(tmp_path), list[str]()
    tokens = Tokens(memory, [SIGNER.raw], "s1")
    access = Access(tokens, Presence(tokens.is_revoked))
    with access.presence.stay(Admission("ann", frozenset(), token_id="leaked"), ended.append):
        asked = asyncio.create_task(access.revoke(Revoke(token_id="leaked"), Call("1")))
        await until(memory.begun.is_set)
        asked.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not asked.done(), "another one would be written beside it"
        memory.let.set()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert TokenMemory(tmp_path).is_revoked("leaked")
    assert ended == ["the token was revoked: fetch a new one"]


async def test_what_opens_by_a_token_that_was_revoked_on_the_way_is_closed() -> None:
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    presence = Presence(lambda token_id: token_id == "leaked")
    with presence.stay(Admission("ann", frozenset(), token_id="leaked"), ended.set_result):
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await ended == "the token was revoked: fetch a new one"


class TestSignedAddresses:
    async def test_it_is_good_once(self, tokens: Tokens) -> None:
        ticket = SIGNER.ticket("GET", "/v1/archive", options={"format": "zstd"})
        admission = await tokens.redeem(ticket, "GET", "/v1/archive", {"format": "zstd"})
        assert (admission.who, admission.scopes) == ("ann", frozenset({Scope.ARCHIVE}))
        with pytest.raises(Unauthorized, match="was used already, or revoked"):
            await tokens.redeem(ticket, "GET", "/v1/archive", {"format": "zstd"})

    @pytest.mark.parametrize(
        ("method", "path", "options"),
        [
            ("PUT", "/v1/files/a", {}),
            ("HEAD", "/v1/files/a", {}),
            ("GET", "/v1/files/b", {}),
            ("GET", "/v1/files/a/", {}),
            ("GET", "/v1/files/a", {"mode": "777"}),
        ],
    )
    async def test_it_is_good_for_nothing_else_and_not_used_up_by_that(
        self, tokens: Tokens, method: str, path: str, options: dict[str, str]
    ) -> None:
        ticket = SIGNER.ticket("GET", "/v1/files/a")
        with pytest.raises(Forbidden, match="was signed for GET /v1/files/a with the options "):
            await tokens.redeem(ticket, method, path, options)
        assert (await tokens.redeem(ticket, "GET", "/v1/files/a", {})).scopes == {Scope.READ}

    async def test_a_token_is_no_address_and_another_sessions_neither(self, tokens: Tokens) -> None:
        for wrong in (SIGNER.token(*ALL), SIGNER.ticket("GET", "/v1/files/a", sid="s2")):
            with pytest.raises(Unauthorized):
                await tokens.redeem(wrong, "GET", "/v1/files/a", {})

    async def test_it_lives_an_hour_at_most(self, tokens: Tokens) -> None:
        with pytest.raises(Unauthorized, match="the limit is 3600"):
            await tokens.redeem(SIGNER.ticket("GET", "/v1/files/a", seconds=3600), "GET", "/v1/files/a", {})


class TestBinding:
    async def test_a_token_of_the_session_binds_a_tool_server_that_has_none(self, tmp_path: Path) -> None:
        tokens, token = tokens_of(tmp_path, session=None), SIGNER.token("admin", sid="s7")
        admission = tokens.believe(token)
        assert admission.binds == "s7"
        with pytest.raises(Forbidden, match="this token is for the session 's7'; it binds to no other"):
            await tokens.bind(BindSession(session_id="s8"), [], admission)
        await tokens.bind(BindSession(session_id="s7"), [], admission)
        for each in (tokens, tokens_of(tmp_path, session=None)):
            assert each.believe(token).binds is None
            with pytest.raises(Unauthorized, match="another session"):
                each.believe(SIGNER.token("admin", sid="s8"))

    async def test_it_is_bound_once(self, tokens: Tokens) -> None:
        with pytest.raises(Conflict, match="belongs to the session 's1', once and for all"):
            await tokens.bind(BindSession(session_id="s2"), [], STATIC)
        await tokens.bind(BindSession(session_id="s1"), [], STATIC)

    async def test_its_own_token_brings_other_keys(self, tokens: Tokens) -> None:
        old = SIGNER.token("read")
        tokens.believe(old)
        await tokens.bind(BindSession(session_id="s1"), [OTHER.raw], STATIC)
        tokens.load()
        assert tokens.believe(OTHER.token("read")).who == "ann"
        with pytest.raises(Unauthorized):
            tokens.believe(old)

    async def test_after_a_restart_the_keys_of_the_start_count_and_without_any_those_it_was_told(
        self, tokens: Tokens, tmp_path: Path
    ) -> None:
        await tokens.bind(BindSession(session_id="s1"), [OTHER.raw], STATIC)
        assert tokens_of(tmp_path, SIGNER).believe(SIGNER.token("read")).who == "ann"
        told = Tokens(TokenMemory(tmp_path))
        told.load()
        assert told.believe(OTHER.token("read")).binds is None
        with pytest.raises(Unauthorized):
            told.believe(SIGNER.token("read"))

    async def test_a_signed_token_brings_none(self, tokens: Tokens) -> None:
        with pytest.raises(Forbidden, match="not by one that they signed"):
            await tokens.bind(
                BindSession(session_id="s1"), [OTHER.raw], tokens.believe(SIGNER.token("admin"))
            )


def test_a_token_that_is_known_is_not_verified_again(tokens: Tokens) -> None:
    token = SIGNER.token("read")
    tokens.believe(token)
    tokens._keys.clear()
    assert tokens.believe(token).who == "ann"
    with pytest.raises(KeysWanted):
        tokens.believe(SIGNER.token("read"))


def test_known_tokens_are_bounded_and_one_that_was_forgotten_is_verified_again(tokens: Tokens) -> None:
    made = [SIGNER.token("read") for _ in range(1030)]
    for each in (*made, made[0]):
        assert tokens.believe(each).who == "ann"
    assert len(tokens._known) == 1024
