"""What docs/saves.md has typed in works, in one shell, from the first line to the last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.durable import PART
from orchestrator.keys import CLOCK_SKEW, TOKEN_LIFE
from orchestrator.save_rules import KEEP
from orchestrator.save_store import LEFTOVER_SECONDS
from orchestrator.spool import IN_MEMORY_BYTES
from protocol.limits import GIB, MIB
from tests.docs.test_examples import blocks
from tests.journeys.support import REPOSITORY

DOCUMENT = "docs/saves.md"


def typed(script: str, directory: Path) -> str:
    """What a shell prints for it; each line must succeed."""
    commands = f'workspace() {{ "{sys.executable}" -m orchestrator "$@"; }}\nset -eu\n{script}'
    environ = {**os.environ, "DATA_DIR": str(directory / "data"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", commands], cwd=directory, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_every_line_of_the_document_runs(tmp_path: Path) -> None:
    [block] = blocks(DOCUMENT)
    try:
        told = typed(block, tmp_path)
    finally:
        typed("workspace down --all --remove", tmp_path)
    assert '"content":"<p>mine</p>\\n"' in told
    assert "restored 0001_" in told
    # The first, by the hand of each `down`, and what was there before it was put back.
    assert len(list((tmp_path / "data/saves").glob("*/*/*.tar.gz"))) == 4


def test_the_figures_are_those_of_the_program() -> None:
    text = (REPOSITORY / DOCUMENT).read_text(encoding="utf-8").replace("\n", " ")
    assert (KEEP.count, KEEP.ageless, LEFTOVER_SECONDS, PART) == (5, 2, 3600, ".part")
    for figure in (
        f"none older than {KEEP.max_age.days} days except the two newest",
        f"and {KEEP.max_bytes // GIB} GiB in all",
        f"larger than {IN_MEMORY_BYTES // MIB} MiB",
        f"{TOKEN_LIFE.total_seconds() / 3600:.0f} hours and five minutes",
    ):
        assert figure in text
    assert CLOCK_SKEW.total_seconds() == 300


def test_its_program_runs_as_it_stands(tmp_path: Path) -> None:
    text = (REPOSITORY / DOCUMENT).read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    environ = {**os.environ, "DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
