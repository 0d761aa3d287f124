from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.measure import Figure, Kind, figure, missing, value
from benchmarks.plots import bars, lines
from benchmarks.report import Report
from benchmarks.targets import targets

FIGURES = [
    figure("command true, in pairs", "posix_spawn + pidfd", [0.8], 0.8, Kind.FLOOR),
    figure("command true, in pairs", "ours, WebSocket", [1.6], 0.8),
    figure("command true, in pairs", "SWE-ReX <1>", [4.0], 0.8, Kind.PEER),
    missing("command true, in pairs", "another", "it is gone", Kind.PEER),
]


def report() -> Report:
    return Report("quick", {"cores": 2}, {"SWE-ReX": "swe-rex==1", "other": "x"}, {"other": "no Python"})


def verdicts(*figures: Figure) -> dict[str, str]:
    return {each.what: each.verdict for each in targets(figures)}


def test_a_run_is_kept_as_data_page_and_plots_and_those_of_the_last_run_go(tmp_path: Path) -> None:
    (tmp_path / "quick-old.svg").write_text("")
    (tmp_path / "full-other.svg").write_text("")
    told = report()
    told.groups["commands"] = FIGURES
    told.groups["growth"] = [
        figure("growth, files: read", count, [1.0 + index], 1.0) for index, count in enumerate(("0", "1000"))
    ]
    page = told.keep(tmp_path)
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {
        "quick.md",
        "quick.json",
        "quick-commands.svg",
        "quick-growth-files.svg",
        "full-other.svg",
    }
    text = page.read_text(encoding="utf-8")
    assert "| command true, in pairs | ours, WebSocket | 1.60 | 1.60 | 2.00 | 1 |" in text
    assert "| other | `x` | not run: no Python |" in text
    assert "![commands](quick-commands.svg)" in text
    assert "| command true, in pairs | 1.60 | 2.50 |" in text
    assert "at most 1.5 | 2.00 | **missed** |" in text
    assert json.loads((tmp_path / "quick.json").read_text())["figures"]["commands"][1]["median_ms"] == 1.6


def test_a_plot_is_a_drawing_with_a_bar_for_each_that_was_run() -> None:
    root = ElementTree.fromstring(bars("a & b", FIGURES))
    spaces = {"s": "http://www.w3.org/2000/svg"}
    assert len(root.findall("s:rect", spaces)) == 1 + 3
    texts = [each.text for each in root.findall("s:text", spaces)]
    assert "SWE-ReX <1>" in texts
    assert "another" not in texts


def test_a_curve_has_a_point_for_each_step_also_for_none_of_it() -> None:
    root = ElementTree.fromstring(lines("t", "files", {"read": [(0, 1.0), (64, 2.0), (512, 2.5)]}, "ms"))
    line = root.find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    places = [tuple(map(float, each.split(","))) for each in line.attrib["points"].split()]
    assert [a for a, _ in places] == sorted(a for a, _ in places)
    assert len(places) == 3


def test_a_plot_of_nothing_is_no_error() -> None:
    ElementTree.fromstring(bars("t", []))
    ElementTree.fromstring(lines("t", "x", {}, "ms"))


def test_targets_say_met_missed_and_not_measured() -> None:
    found = verdicts(*FIGURES, value("memory, idle", "ours", 44.0, "MiB"))
    assert found["`true`, beside posix_spawn and a pidfd, in pairs"] == "**missed**"
    assert found["idle memory"] == "met"
    assert found["a session created, p50"] == "not measured"


def test_a_search_may_take_three_milliseconds_more_than_ripgrep_alone() -> None:
    case = "a word in 1000 files"
    floor = figure(case, "ripgrep", [10.0], 10.0, Kind.FLOOR)
    what = f"{case}, less 3 ms, beside ripgrep"
    assert verdicts(floor, figure(case, "ours, WebSocket", [14.9], 10.0))[what] == "met"
    assert verdicts(floor, figure(case, "ours, WebSocket", [15.1], 10.0))[what] == "**missed**"


def test_of_archives_the_largest_tree_the_lone_file_and_the_few_files_count_each_for_itself() -> None:
    figures = [
        figure(f"archive in, {what}", name, [time], 1.0, kind)
        for what, ours in (("50 files", 9.0), ("30000 files", 0.7), ("one file of 500 MB", 0.1))
        for name, time, kind in (("tar xzf", 1.0, Kind.FLOOR), ("ours", ours, Kind.OURS))
    ]
    found = {each.what: (each.found, each.verdict) for each in targets(figures) if "archive in" in each.what}
    assert found == {
        "archive in, many small files, beside GNU tar": (0.7, "met"),
        "archive in, 50 files": (9.0, "met"),
        "archive in, one large file, beside tar xzf": (0.1, "met"),
    }


def test_each_way_to_pack_many_files_is_held_against_the_same_way_of_tar() -> None:
    tar_zstd = "tar -I 'zstd -1'"
    taken = {"tar czf": 7000.0, tar_zstd: 800.0, "ours, gzip": 1700.0, "ours, zstd": 1800.0}
    figures = [
        figure("archive out, 30000 files", name, [time], 1.0, Kind.OURS if "ours" in name else Kind.FLOOR)
        for name, time in taken.items()
    ]
    found = verdicts(*figures)
    assert found["archive out, many small files, beside GNU tar"] == "met"
    assert found[f"archive out, many small files, beside {tar_zstd}"] == "**missed**"


def test_a_rate_is_met_from_below() -> None:
    what = "sessions a minute, each with its tool server"
    case = "sessions a minute, 3 at once"
    assert verdicts(value(case, "ours, isolated", 119, "a minute"))[what] == "**missed**"
    assert verdicts(value(case, "ours, isolated", 121, "a minute"))[what] == "met"
