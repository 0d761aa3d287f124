"""What docs/python.md shows is what happens."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.live import Host

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "python.md"


def blocks() -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_every_session_runs_in_the_order_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = "\n".join(block for block in blocks() if block.startswith(">>>"))
    session = doctest.DocTestParser().get_doctest(shown, {}, "python.md", None, 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(session, out=told.append)
    assert runner.failures == 0, "".join(told)
    assert runner.tries > 20


@pytest.mark.timeout(300)
def test_every_program_runs_as_it_stands(tmp_path: Path) -> None:
    programs = [block for block in blocks() if not block.startswith(">>>")]
    assert programs
    host = Host(tmp_path)
    try:
        for program in programs:
            command = [sys.executable, "-c", program]
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            assert re.search(r"^http://\S+/ session_\S+\n\['session_\S+'\]\n\[\]$", done.stdout.strip())
        assert host.processes() == set()
    finally:
        host.end_everything()


def test_every_link_leads_somewhere() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    named = re.findall(r"`(examples/\w+\.py)`", text)
    assert [link for link in links if not (DOCUMENT.parent / link).exists()] == []
    assert [name for name in named if not (REPOSITORY / name).is_file()] == []
