"""The example runs as printed: eight stages, each on what the others left, and a paper at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import research_pipeline
from examples.research_pipeline import STAGES, Gains, Session, StandIn, create_session

ROOT = Path(__file__).resolve().parents[2]
DIRECTORIES = (
    "00_hypotheses",
    "01_experimental_design",
    "02_evidence",
    "03_updated_hypotheses",
    "04_draft",
    "05_verification",
    "06_revision",
    "07_final",
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    made = create_session("Why?", user="ann", data_dir=str(tmp_path_factory.mktemp("data")))
    with made.workspace:
        for stage in STAGES.values():
            stage(made, StandIn())
        yield made


def test_a_session_says_whose_it_is_and_what_it_is_about(session: Session) -> None:
    metadata = json.loads(session.read("session_metadata.json"))
    assert list(metadata) == ["session_id", "user_id", "topic", "workspace_dir"]
    assert metadata["session_id"] == session.workspace.session_id
    assert (metadata["user_id"], metadata["topic"]) == ("ann", "Why?")
    assert (Path(metadata["workspace_dir"]) / "session_metadata.json").is_file()


def test_every_stage_has_its_directory_and_left_something_there(session: Session) -> None:
    entries = [entry.path for entry in session.workspace.list(depth=2).entries]
    for directory in DIRECTORIES:
        assert [path for path in entries if path.startswith(f"{directory}/")] != [f"{directory}/README.md"]
        assert directory in entries


def test_the_paper_is_the_revised_draft_with_its_evidence(session: Session) -> None:
    paper = session.read(research_pipeline.FINAL)
    observations = json.loads(session.read(research_pipeline.EVIDENCE))
    assert paper.startswith("# Why?\n\n## Summary\n")
    for row in observations:
        assert f"| {row['text']} | {row['level']} | {row['bytes']} | {row['packed']} |" in paper
    gains = Gains.of(observations)
    assert f"became {gains.of_noise:.1f} % smaller by effort" in paper


def test_the_verification_finds_the_wrong_figure_and_the_revision_mends_it(session: Session) -> None:
    findings = session.read(research_pipeline.VERIFICATION)
    assert (findings.count("- stands"), findings.count("- WRONG")) == (2, 1)
    diff = session.read("06_revision/changes.diff")
    assert ("\n-" in diff, "\n+" in diff) == (True, True)
    assert session.read(research_pipeline.REVISION) != session.read(research_pipeline.DRAFT)


def test_the_same_materials_give_the_same_paper(session: Session) -> None:
    before = session.read(research_pipeline.FINAL)
    for stage in STAGES.values():
        stage(session, StandIn())
    assert session.read(research_pipeline.FINAL) == before


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "examples/research_pipeline.py", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("00 hypotheses: ")
    assert f"# {research_pipeline.TOPIC}\n\n## Summary\n" in done.stdout
