"""``python -m tests.fuzz``: every target for a time, each in a process of its own, led by coverage.

    python -m tests.fuzz --seconds 60                # all, 60 seconds each
    python -m tests.fuzz archive patch --seconds 600

A finding is written to tests/fuzz/findings/TARGET/, where the tests replay it from then on, and makes the
exit code 1. What was learned stays in .fuzz/TARGET/ and is begun with the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import EVERYTHING_AT_ONCE, TARGETS

FINDINGS = Path(__file__).with_name("findings")
_ROOT = Path(__file__).parents[2]
_CORPUS = _ROOT / ".fuzz"
_SLOW_SECONDS = 10
"""One input that takes longer is a finding too."""
_MAX_MIB = 1024
_GRACE_SECONDS = 180
"""For the start, with every module made countable, and for the end."""
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")


@dataclass(frozen=True)
class Outcome:
    """What became of one target."""

    target: str
    cases: int
    seconds: int
    finding: Path | None
    told: str
    """What the engine printed."""

    @property
    def line(self) -> str:
        """For a person."""
        rate = f"{self.cases // max(self.seconds, 1):>8} a second"
        end = f"FOUND {self.finding}" if self.finding else ""
        return f"{self.target:<14} {self.cases:>10} cases {rate}  {end}".rstrip()


def fuzz(name: str, seconds: int, corpus: Path, findings: Path, cases: int | None = None) -> Outcome:
    """Search for ``seconds``, in one target or, by any other name, in all at once.

    With ``cases`` the search is the same every time: so many, from one seed. Raises RuntimeError when the
    engine itself fails.
    """
    target = TARGETS.get(name, EVERYTHING_AT_ONCE)
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        options = {
            "max_total_time": seconds,
            "timeout": _SLOW_SECONDS,
            "rss_limit_mb": _MAX_MIB,
            "max_len": target.max_bytes,
            "artifact_prefix": f"{scratch}/",
        }
        if cases is not None:
            options |= {"runs": cases, "seed": 1}
        words = [f"-{name}={value}" for name, value in options.items()]
        ended = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.engine", name, *words, str(corpus)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + _GRACE_SECONDS,
            check=False,
        )
        kept = [_kept(found, findings / name) for found in Path(scratch).iterdir()]
    done = _DONE.search(ended.stdout)
    if done is None and not kept:
        raise RuntimeError(f"{name}: exit code {ended.returncode}:\n{ended.stdout[-4000:]}")
    cases, took = (int(done[1]), int(done[2])) if done else (0, 0)
    return Outcome(name, cases, took, kept[0] if kept else None, ended.stdout)


def _kept(found: Path, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    kept = directory / found.name[:24]
    kept.write_bytes(found.read_bytes())
    return kept


def main() -> int:
    """Fuzz what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all of them")
    parser.add_argument("--seconds", type=int, default=30, help="for each target (30)")
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    found = False
    for target in options.targets or TARGETS:
        outcome = fuzz(target, options.seconds, _CORPUS / target, FINDINGS)
        print(outcome.line, flush=True)
        if outcome.finding:
            found = True
            print(outcome.told[-4000:])
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
