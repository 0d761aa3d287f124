"""One run as it is kept: JSON for programs, a page of tables and plots for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Figure, Kind
from benchmarks.plots import bars, lines
from benchmarks.targets import targets

HEAD = "| case | candidate | median ms | p99 ms | to floor | runs |\n|---|---|---|---|---|---|"


@dataclass
class Report:
    """What came of each group, in order."""

    name: str
    """``quick`` or ``full``, ``part-`` before it for some groups alone: of the files' names."""
    machine: Mapping[str, object]
    releases: Mapping[str, str]
    """Of each peer that was to be run."""
    absent: Mapping[str, str]
    """Those that were not run, and why."""
    groups: dict[str, list[Figure]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each group."""

    @property
    def figures(self) -> list[Figure]:
        """All of them."""
        return [each for found in self.groups.values() for each in found]

    def keep(self, directory: Path) -> Path:
        """Write the page, the data and the plots, in place of the last run's of this name; the page."""
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob(f"{self.name}-*.svg"):
            old.unlink()
        for name, drawing in self.plots().items():
            (directory / name).write_text(drawing, encoding="utf-8")
        (directory / f"{self.name}.json").write_text(self.data(), encoding="utf-8")
        page = directory / f"{self.name}.md"
        page.write_text(self.page(), encoding="utf-8")
        return page

    def data(self) -> str:
        """JSON."""
        found = {name: [each.data() for each in group] for name, group in self.groups.items()}
        told = {
            "machine": self.machine,
            "peers": self.releases,
            "notRun": self.absent,
            "seconds": self.seconds,
            "figures": found,
        }
        return json.dumps(told, indent=1) + "\n"

    def page(self) -> str:
        """Markdown."""
        parts = [
            f"# Benchmarks, the {self.name} run\n",
            "Candidates take turns, A B A B, in one run; ratios are to the first row of a case, its floor.",
            "Times are milliseconds and include the client. All share one machine and one tree.\n",
            "## Targets\n",
            "| what | aim | this run | |\n|---|---|---|---|",
            *(each.row() for each in targets(self.figures)),
            *_beside_peers(self.figures),
            "\n## On\n",
            "| | |\n|---|---|",
            *(f"| {name} | {told} |" for name, told in self.machine.items()),
            "\n## Peers\n",
            "| peer | release | |\n|---|---|---|",
            *(f"| {name} | `{release}` | {self._how(name)} |" for name, release in self.releases.items()),
        ]
        drawn = self.plots()
        for name, group in self.groups.items():
            parts.append(f"\n## {name.capitalize()}\n\n{HEAD}")
            parts += [each.row() for each in group]
            parts.append(f"\nThe group took {self.seconds.get(name, 0):.0f} s.")
            parts += [
                f"\n![{name}]({file})" for file in drawn if file.startswith(f"{self.name}-{_slug(name)}")
            ]
        return "\n".join(parts) + "\n"

    def _how(self, peer: str) -> str:
        return f"not run: {self.absent[peer]}" if peer in self.absent else "run"

    def plots(self) -> dict[str, str]:
        """Drawings by the names of their files."""
        found = {}
        for name, group in self.groups.items():
            stem = f"{self.name}-{_slug(name)}"
            curves = _curves(group)
            for across, series in curves.items():
                found[f"{stem}-{_slug(across)}.svg"] = lines(f"growth with {across}", across, series, "ms")
            rest = [each for each in group if not each.case.startswith("growth, ") and not each.not_run]
            for unit in dict.fromkeys(each.unit for each in rest):
                ending = "" if unit == "ms" else f"-{_slug(unit)}"
                drawn = [each for each in rest if each.unit == unit]
                found[f"{stem}{ending}.svg"] = bars(f"{name}, {unit}, logarithmic", drawn)
        return found


def _curves(group: list[Figure]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Of cases named ``growth, WHAT: ACT``, whose candidates are how much there is."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for each in group:
        if each.case.startswith("growth, ") and each.unit == "ms" and not each.not_run:
            across, _, act = each.case.removeprefix("growth, ").partition(": ")
            point = (float(each.candidate), each.median_ms)
            found.setdefault(across, {}).setdefault(act, []).append(point)
    return found


def _beside_peers(figures: list[Figure]) -> list[str]:
    """A table of how many times as long each peer took as we did, at whichever of our doors came first."""
    cases: dict[str, list[Figure]] = {}
    for each in figures:
        if not each.not_run:
            cases.setdefault(each.case, []).append(each)
    peers = list(
        dict.fromkeys(each.candidate for each in figures if each.kind is Kind.PEER and not each.not_run)
    )
    rows = []
    for case, found in cases.items():
        theirs = {each.candidate: each.median_ms for each in found if each.kind is Kind.PEER}
        ours = next((each for each in found if each.kind is Kind.OURS), None)
        if theirs and ours and ours.median_ms:
            times = (f"{theirs[name] / ours.median_ms:.2f}" if name in theirs else "" for name in peers)
            own = f"{ours.median_ms:.2f}" + ("" if ours.unit == "ms" else f" {ours.unit}")
            rows.append(f"| {case} | {own} | {' | '.join(times)} |")
    if not rows:
        return []
    head = f"| case | ours | {' | '.join(peers)} |\n|{'---|' * (len(peers) + 2)}"
    return ["\n## Beside each peer\n", "How many times as much as ours each of them takes.\n", head, *rows]


def _slug(text: str) -> str:
    return "-".join("".join(each if each.isalnum() else " " for each in text.lower()).split())
