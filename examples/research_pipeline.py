"""A research session in a workspace of its own: eight stages, from hypotheses to a paper that can be read.

    python examples/research_pipeline.py "Does the order of lines matter to gzip?"

The workspace comes from the template ``research-pipeline``. Each stage reads what the ones before it left and
writes into its own directory. Where a language model would be asked, ``StandIn`` answers: by rule, the same
for the same materials, so that this runs anywhere and ends alike. It reasons from what the experiment really
measured, and makes one mistake on purpose, for the verification to find.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator import Workspace

TOPIC = "Does the order of its lines matter to how well a text compresses?"

HYPOTHESES, DESIGN, EVIDENCE, VERDICTS, DRAFT, VERIFICATION, REVISION, FINAL = (
    "00_hypotheses/hypotheses.md",
    "01_experimental_design/design.md",
    "02_evidence/observations.json",
    "03_updated_hypotheses/verdicts.md",
    "04_draft/draft.md",
    "05_verification/findings.md",
    "06_revision/revised.md",
    "07_final/final.md",
)
SCRIPT = "01_experimental_design/experiment.sh"

EXPERIMENT = r"""#!/bin/sh
# Three texts of 4000 lines, made by the same arithmetic everywhere; each packed at two levels of gzip.
set -eu
directory=$(mktemp -d) && trap 'rm -rf "$directory"' EXIT
awk 'BEGIN { x = 7; for (n = 0; n < 4000; n++) {
  x = (x * 1103 + 12345) % 65536; a = x % 40; x = (x * 1103 + 12345) % 65536; b = x % 50
  printf "user%02d signed in from office%02d and read the notice\n", a, b } }' > "$directory/shuffled"
LC_ALL=C sort "$directory/shuffled" > "$directory/sorted"
awk 'BEGIN { x = 11; for (n = 0; n < 4000; n++) { for (c = 0; c < 12; c++) {
  x = (x * 16807) % 2147483647; printf "%04x", x % 65536 } print "" } }' > "$directory/noise"
for text in shuffled sorted noise; do
  for level in 1 9; do
    printf '{"text": "%s", "level": %d, "bytes": %d, "packed": %d}\n' "$text" "$level" \
      "$(wc -c < "$directory/$text")" "$(gzip -n -c -"$level" < "$directory/$text" | wc -c)"
  done
done
"""


@dataclass(frozen=True)
class Session:
    """One research session: its workspace, and what it is about."""

    workspace: Workspace
    topic: str

    def keep(self, path: str, content: str) -> str:
        """Write a stage's result, whole or not at all, and hand it on."""
        self.workspace.write(path, content)
        return content

    def read(self, path: str) -> str:
        """What an earlier stage left."""
        return self.workspace.read_text(path)


def create_session(
    topic: str, *, user: str = "default", backend: str = "local", data_dir: str | None = None
) -> Session:
    """A workspace with the eight directories, and session_metadata.json, which says whose and about what."""
    workspace = Workspace.create("research-pipeline", user=user, backend=backend, data_dir=data_dir)
    metadata = {
        "session_id": workspace.session_id,
        "user_id": user,
        "topic": topic,
        "workspace_dir": workspace.execute_command("pwd").stdout.rstrip("\n"),
    }
    workspace.write("session_metadata.json", json.dumps(metadata, indent=2) + "\n")
    return Session(workspace, topic)


# -- the stand-in for a language model --------------------------------------------------------------------


@dataclass(frozen=True)
class Gains:
    """By how much of a hundred a text gets smaller than the shuffled one at level 1, or than itself."""

    by_order: float
    by_level: float
    of_noise: float

    @classmethod
    def of(cls, observations: list[dict[str, int | str]]) -> Gains:
        """Out of what the experiment printed."""
        packed = {(row["text"], row["level"]): float(row["packed"]) for row in observations}

        def gain(before: tuple[str, int], after: tuple[str, int]) -> float:
            return 100 * (1 - packed[after] / packed[before])

        return cls(
            by_order=gain(("shuffled", 1), ("sorted", 1)),
            by_level=gain(("shuffled", 1), ("shuffled", 9)),
            of_noise=gain(("noise", 1), ("noise", 9)),
        )


class StandIn:
    """Answers as a language model would be asked to: materials in, a document out."""

    def hypotheses(self, topic: str) -> str:
        """What might be true."""
        return (
            f"# Hypotheses\n\nThe question: {topic}\n\n"
            "1. **Order.** Sorting the lines of a text makes its archive at least a tenth smaller.\n"
            "   Against it: a sorted archive that is as large as the unsorted one.\n"
            "2. **Effort.** A higher level of gzip gains more than sorting does.\n"
            "   Against it: a larger gain by sorting.\n"
            "3. **Repetition.** A text without repetition gains less than five of a hundred by more effort.\n"
            "   Against it: noise that shrinks all the same.\n"
        )

    def design(self, hypotheses: str) -> str:
        """How they are put to the test."""
        names = re.findall(r"^\d\. \*\*(\w+)\.\*\*", hypotheses, re.MULTILINE)
        measures = ("sorted beside shuffled", "level 9 beside level 1", "noise at both levels")
        rows = "".join(f"| {name} | {how} |\n" for name, how in zip(names, measures, strict=True))
        return (
            "# Experimental design\n\n`experiment.sh` makes three texts of 4000 lines and packs each by gzip "
            "at two levels. It prints one observation per line.\n\n"
            f"| hypothesis | compared |\n|---|---|\n{rows}\n"
            "Nothing in it is random: who runs it again gets the same texts, and with one gzip the same "
            "sizes.\n"
        )

    def verdicts(self, hypotheses: str, gains: Gains) -> str:
        """What became of them."""
        names = re.findall(r"^\d\. \*\*(\w+)\.\*\*", hypotheses, re.MULTILINE)
        decided = (
            (gains.by_order >= 10, f"sorted, the archive is {gains.by_order:.1f} % smaller"),
            (
                gains.by_level > gains.by_order,
                f"level 9 gains {gains.by_level:.1f} %, sorting {gains.by_order:.1f} %",
            ),
            (gains.of_noise < 5, f"noise gains {gains.of_noise:.1f} %"),
        )
        lines = (
            f"- **{name}**: {'held' if held else 'refuted'}; {why}.\n"
            for name, (held, why) in zip(names, decided, strict=True)
        )
        return "# Updated hypotheses\n\n" + "".join(lines)

    def draft(self, topic: str, verdicts: str, gains: Gains) -> str:
        """The paper. Its last figure is taken from the wrong row, as happens."""
        findings = "\n".join(re.findall(r"^- .*$", verdicts, re.MULTILINE))
        return (
            f"# {topic}\n\n## Summary\n\n"
            f"Sorting the lines of a log made its archive {gains.by_order:.1f} % smaller. "
            f"Nine levels of effort made it {gains.by_level:.1f} % smaller. "
            f"Text without repetition became {gains.by_level:.1f} % smaller by effort.\n\n"
            f"## Findings\n\n{findings}\n\n"
            "## What it means\n\nA packer looks back over a window. Lines that are alike stand beside each "
            "other once they are sorted, so what repeats is found near by. Where nothing repeats there is "
            "nothing to find, however long one looks.\n"
        )

    def findings(self, draft: str, gains: Gains) -> str:
        """Every figure of the summary, recomputed."""
        claims = (
            ("Sorting the lines of a log made its archive {:.1f} % smaller", gains.by_order),
            ("Nine levels of effort made it {:.1f} % smaller", gains.by_level),
            ("Text without repetition became {:.1f} % smaller", gains.of_noise),
        )
        lines = [
            f"- {'stands' if claim.format(value) in draft else 'WRONG'}: {claim.format(value)}\n"
            for claim, value in claims
        ]
        return "# Verification\n\nEvery figure of the summary, beside the observations:\n\n" + "".join(lines)


# -- the eight stages -------------------------------------------------------------------------------------


def hypotheses(session: Session, model: StandIn) -> str:
    """00: from the topic."""
    return session.keep(HYPOTHESES, model.hypotheses(session.topic))


def design(session: Session, model: StandIn) -> str:
    """01: for people, and as a script."""
    session.keep(SCRIPT, EXPERIMENT)
    return session.keep(DESIGN, model.design(session.read(HYPOTHESES)))


def evidence(session: Session, model: StandIn) -> str:
    """02: the script is run in the workspace; what it prints is kept as it came, and as JSON."""
    done = session.workspace.execute_command("sh experiment.sh", cwd="01_experimental_design", timeout=120)
    if done.exit_code != 0 or done.timeout_occurred:
        raise RuntimeError(f"the experiment failed ({done.exit_code}): {done.stderr}")
    session.keep("02_evidence/experiment.log", done.stdout)
    observations = [json.loads(line) for line in done.stdout.splitlines()]
    return session.keep(EVIDENCE, json.dumps(observations, indent=2) + "\n")


def verdicts(session: Session, model: StandIn) -> str:
    """03: the hypotheses in the light of it."""
    return session.keep(VERDICTS, model.verdicts(session.read(HYPOTHESES), _gains(session)))


def draft(session: Session, model: StandIn) -> str:
    """04: the paper."""
    return session.keep(DRAFT, model.draft(session.topic, session.read(VERDICTS), _gains(session)))


def verification(session: Session, model: StandIn) -> str:
    """05: the draft beside the evidence."""
    return session.keep(VERIFICATION, model.findings(session.read(DRAFT), _gains(session)))


def revision(session: Session, model: StandIn) -> str:
    """06: each finding is worked in by an edit, which says what it changed."""
    session.keep(REVISION, session.read(DRAFT))
    diffs = []
    for right in re.findall(r"^- WRONG: (.*)$", session.read(VERIFICATION), re.MULTILINE):
        words = re.split(r"[\d.-]+(?= %)", right)
        wrong = re.search(r"[\d.-]+".join(map(re.escape, words)), session.read(REVISION))
        if wrong is None:
            raise RuntimeError(f"the draft does not claim this at all: {right}")
        diffs.append(session.workspace.edit(REVISION, wrong[0], right).diff)
    session.keep("06_revision/changes.diff", "".join(diffs))
    return session.read(REVISION)


def final(session: Session, model: StandIn) -> str:
    """07: what is handed over, with the way to check it."""
    observations = json.loads(session.read(EVIDENCE))
    rows = "".join(
        f"| {row['text']} | {row['level']} | {row['bytes']} | {row['packed']} |\n" for row in observations
    )
    return session.keep(
        FINAL,
        session.read(REVISION)
        + f"\n## Observations\n\n| text | level | bytes | packed |\n|---|---|---|---|\n{rows}\n"
        + f"Run again by `sh {SCRIPT}`.\n",
    )


def _gains(session: Session) -> Gains:
    return Gains.of(json.loads(session.read(EVIDENCE)))


STAGES: Mapping[str, Callable[[Session, StandIn], str]] = {
    "hypotheses": hypotheses,
    "experimental design": design,
    "evidence": evidence,
    "updated hypotheses": verdicts,
    "draft": draft,
    "verification": verification,
    "revision": revision,
    "final": final,
}
"""In order; each gives its main document."""


def main() -> None:
    """All eight, and the paper on standard output."""
    parser = argparse.ArgumentParser(description="A research session in a workspace of its own.")
    parser.add_argument("topic", nargs="?", default=TOPIC)
    parser.add_argument("--user", default="default")
    parser.add_argument("--backend", default="local")
    parser.add_argument("--data-dir")
    asked = parser.parse_args()
    session = create_session(asked.topic, user=asked.user, backend=asked.backend, data_dir=asked.data_dir)
    with session.workspace:
        for number, (name, stage) in enumerate(STAGES.items()):
            document = stage(session, StandIn())
            print(f"{number:02} {name}: {len(document)} characters")
        print(f"\n{session.read(FINAL)}")


if __name__ == "__main__":
    main()
