"""Every input that was ever a finding, and a short search for the next. ``make fuzz`` searches longer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.fuzz.__main__ import FINDINGS, fuzz
from tests.fuzz.targets import TARGETS

CASES = 20_000
"""The same ones every time: what fails here failed because of a change."""
FAULT = "WORKSPACE_FUZZ_FAULT"
"""As in ``engine``, which imports what is not there on every machine."""
without_engine = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine"
)


@pytest.mark.parametrize("name", TARGETS)
def test_good_input_and_what_once_was_a_finding_keep_the_promises(name: str) -> None:
    target = TARGETS[name]
    for data in (b"", *target.seeds, *(path.read_bytes() for path in sorted(FINDINGS.glob(f"{name}/*")))):
        target.fuzz(data)


def test_findings_are_those_of_targets() -> None:
    assert {path.name for path in FINDINGS.iterdir()} <= set(TARGETS)


@without_engine
@pytest.mark.timeout(300)  # its start alone takes half a minute on a busy machine
def test_a_short_search_finds_nothing(tmp_path: Path) -> None:
    outcome = fuzz("everything", 60, tmp_path / "corpus", tmp_path / "findings", CASES)
    assert outcome.finding is None, f"{outcome.finding.read_bytes()!r}\n{outcome.told[-3000:]}"
    assert outcome.cases > 0


@without_engine
@pytest.mark.timeout(300)  # its start alone takes half a minute on a busy machine
def test_a_fault_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULT, "1")
    outcome = fuzz("path", 60, tmp_path / "corpus", tmp_path / "findings")
    assert outcome.finding is not None
    assert "a fault on purpose" in outcome.told
    assert outcome.finding.read_bytes().startswith(b"F")
