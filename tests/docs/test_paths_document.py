"""What docs/paths.md shows is what happens."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "paths.md"


def blocks(language: str) -> list[str]:
    found = re.findall(
        rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found
    return found


def test_every_python_block_runs_in_the_order_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    session = doctest.DocTestParser().get_doctest("\n".join(blocks("python")), {}, "paths.md", None, 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(session, out=told.append)
    assert runner.failures == 0, "".join(told)
    assert runner.tries > 10


@pytest.mark.timeout(300)
def test_the_unit_tests_run_by_the_documents_command_and_without_any_container() -> None:
    (command,) = blocks("sh")
    # Nothing but this interpreter is in reach: no engine, and no other program than git.
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "DOCKER_HOST": "unix:///nowhere"}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Ran \d+ tests", done.stderr, re.MULTILINE)


def test_every_link_leads_somewhere() -> None:
    named = re.findall(r"`(orchestrator/\w+\.py)`", DOCUMENT.read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (REPOSITORY / name).is_file()] == []
