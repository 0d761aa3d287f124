"""The keys that session tokens are signed by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from orchestrator.keys import CLOCK_SKEW, TOKEN_LIFE, KeyRing, PublicKey, Signed
from orchestrator.paths import PathManager
from protocol.errors import Forbidden, Unavailable
from protocol.tokens import key_id

NOW = datetime(2026, 11, 21, tzinfo=UTC)
GONE = TOKEN_LIFE + CLOCK_SKEW + timedelta(seconds=1)
RACER = [
    sys.executable,
    "-c",
    "import sys; from pathlib import Path; from orchestrator.keys import KeyRing;"
    "from orchestrator.paths import PathManager;"
    "ring = KeyRing.open(PathManager(Path(sys.argv[1]))); print(ring.active.id, flush=True);"
    "sys.stdin.readline();"
    "wanted = sys.argv[3] or None;"
    "[print(ring.rotate(instead_of=wanted).id) for _ in range(int(sys.argv[2]))]",
]


@pytest.fixture
def paths(tmp_path: Path) -> PathManager:
    return PathManager(tmp_path / "data")


@pytest.fixture
def ring(paths: PathManager) -> KeyRing:
    return KeyRing.open(paths, NOW)


@pytest.fixture
def file(paths: PathManager, ring: KeyRing) -> Path:
    return paths.keys_dir / "ring.json"


def verifies(key: PublicKey, signed: Signed, data: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signed.signature, data)
    except InvalidSignature:
        return False
    return key.id == signed.key_id


def stored(file: Path) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = json.loads(file.read_text())["keys"]
    return keys


def test_what_is_signed_is_verified_by_the_public_key_alone(ring: KeyRing) -> None:
    signed = ring.sign(b"token")
    assert len(signed.signature) == 64
    assert verifies(ring.active, signed, b"token")
    assert not verifies(ring.active, signed, b"other")
    assert ring.active.id == key_id(ring.active.raw) == signed.key_id


def test_another_orchestrator_and_a_restart_find_the_same_key(ring: KeyRing, paths: PathManager) -> None:
    assert KeyRing.open(paths).active == ring.active


def test_keys_are_for_their_owner_alone(ring: KeyRing, file: Path) -> None:
    ring.rotate()
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}
    assert sorted(path.name for path in file.parent.iterdir()) == [".lock", "ring.json"]


# -- rotation ---------------------------------------------------------------------------------------------


def test_a_rotated_key_signs_no_more_but_is_verified_for_as_long_as_a_token_lives(
    ring: KeyRing, file: Path
) -> None:
    first, signed = ring.active, ring.sign(b"token")
    second = ring.rotate(NOW)
    assert ring.sign(b"x").key_id == second.id != first.id
    assert ring.public_keys(NOW + TOKEN_LIFE) == (second, first)
    assert any(verifies(key, signed, b"token") for key in ring.public_keys(NOW + TOKEN_LIFE))
    assert ring.public_keys(NOW + GONE) == (second,)
    assert [key["private"] is None for key in stored(file)] == [True, False]


def test_old_public_keys_are_dropped_by_a_later_rotation(ring: KeyRing, file: Path) -> None:
    for hours in range(0, 24 * 4, 8):
        ring.rotate(NOW + timedelta(hours=hours))
    assert len(stored(file)) == 5  # of the last 24 hours, and the active one
    ring.rotate(NOW + timedelta(days=400))
    assert len(stored(file)) == 2
    assert len(ring.public_keys(NOW + timedelta(days=402))) == 1


def test_a_rotation_counts_at_once_in_every_orchestrator(ring: KeyRing, paths: PathManager) -> None:
    other = KeyRing.open(paths)
    second = ring.rotate()
    assert other.sign(b"x").key_id == second.id
    assert other.active == second


def test_a_clock_that_goes_back_leaves_the_newest_key_active_and_keeps_no_old_one_for_good(
    ring: KeyRing, file: Path
) -> None:
    ring.rotate(NOW + timedelta(days=10_000))
    past = ring.rotate(NOW)
    assert ring.active == past
    assert len(ring.public_keys(NOW)) == 3
    last = ring.rotate(NOW + GONE)
    assert ring.public_keys(NOW + GONE) == (last, past)
    assert len(stored(file)) == 2


def test_of_two_who_replace_one_key_at_once_the_second_gets_what_the_first_made(
    ring: KeyRing, paths: PathManager
) -> None:
    other, old = KeyRing.open(paths), ring.active.id
    assert ring.rotate(instead_of=old) == other.rotate(instead_of=old)
    assert len(ring.public_keys()) == 2


def race(paths: PathManager, count: int, instead_of: str = "") -> tuple[list[str], list[str]]:
    """What two programs had for active keys when they began, and what they made of it at once."""
    racers = [
        subprocess.Popen(
            [*RACER, str(paths.base_dir), str(count), instead_of],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    begun = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
    made = [id for racer in racers for id in racer.communicate("go\n", timeout=60)[0].split()]
    assert [racer.returncode for racer in racers] == [0, 0]
    return begun, made


def test_two_programs_that_open_an_empty_directory_at_once_have_one_key(paths: PathManager) -> None:
    begun, _ = race(paths, 0)
    assert begun[0] == begun[1] == KeyRing.open(paths).active.id


def test_two_programs_that_rotate_at_once_end_with_one_ring_that_has_all_keys(
    ring: KeyRing, file: Path, paths: PathManager
) -> None:
    first = ring.active.id
    race(paths, 15)
    assert len(ring.public_keys()) == 31
    assert first in {key.id for key in ring.public_keys()}
    keys = stored(file)
    assert [key["number"] for key in keys] == list(range(1, 32))
    assert [key["private"] is None for key in keys] == [True] * 30 + [False]
    assert verifies(ring.active, ring.sign(b"x"), b"x")


def test_two_programs_that_replace_one_key_make_one(ring: KeyRing, paths: PathManager) -> None:
    _, made = race(paths, 1, ring.active.id)
    assert made == [ring.active.id] * 2
    assert len(ring.public_keys()) == 2


def test_what_a_kill_left_behind_is_gone_with_the_next_rotation(ring: KeyRing, file: Path) -> None:
    left = file.with_name(".ring.json.01020304.part")
    left.write_text("half a key")
    ring.rotate()
    assert not left.exists()


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_keys_that_others_can_reach_are_refused(
    file: Path, paths: PathManager, ring: KeyRing, mode: int
) -> None:
    file.chmod(mode)
    with pytest.raises(Forbidden, match=f"mode is {mode:04o}.*`chmod 600 {file}`"):
        KeyRing.open(paths)
    with pytest.raises(Forbidden):
        ring.sign(b"x")


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o770])
def test_a_directory_of_keys_that_others_can_enter_is_refused(
    file: Path, paths: PathManager, mode: int
) -> None:
    file.parent.chmod(mode)
    with pytest.raises(Forbidden, match=f"`chmod 700 {file.parent}`"):
        KeyRing.open(paths)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_keys_of_another_user_are_refused(file: Path, paths: PathManager) -> None:
    os.chown(file, 12345, -1)
    with pytest.raises(Forbidden, match="belongs to user 12345"):
        KeyRing.open(paths)


def test_a_link_is_no_ring(file: Path, paths: PathManager, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(Unavailable, match="cannot be read"):
        KeyRing.open(paths)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"keys": []}', '{"keys": [{"number": 1}]}'])
def test_damaged_keys_are_told_and_not_replaced(file: Path, paths: PathManager, content: str) -> None:
    file.write_text(content)
    with pytest.raises(Unavailable, match="damaged: move the file away"):
        KeyRing.open(paths)
    assert file.read_text() == content


def test_a_ring_whose_active_key_is_gone_is_damaged(ring: KeyRing, file: Path) -> None:
    file.write_text(file.read_text().replace('"private":"', '"private":"AA=="  ,"x":"'))
    with pytest.raises(Unavailable):
        ring.sign(b"x")


def test_no_private_key_is_ever_shown(ring: KeyRing, file: Path) -> None:
    private = stored(file)[0]["private"]
    assert isinstance(private, str)
    shown = [
        repr(ring),
        str(ring),
        repr(ring.active),
        repr(ring._keys),
        f"{ring._keys[0]}",
        repr(ring.sign(b"")),
    ]
    assert not [text for text in shown if private in text]
    file.write_text(json.dumps({"keys": [{"number": "x", "private": private}]}))
    with pytest.raises(Unavailable) as caught:
        ring.sign(b"x")
    assert private not in str(caught.value) + str(caught.value.details)
    assert caught.value.__cause__ is None
