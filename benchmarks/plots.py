"""Figures as SVG, by hand: two kinds of plot, no fonts, no scripts, readable in any browser and in a diff.

A plotting library would be the largest package of the project, for bars and lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from benchmarks.measure import Figure, Kind

COLOURS = {Kind.FLOOR: "#9aa5b1", Kind.OURS: "#1f6feb", Kind.PEER: "#e0922f"}
_LINES = ("#1f6feb", "#e0922f", "#2da44e", "#a371f7", "#cf222e", "#57606a")
_WIDTH, _LABELS, _ROW, _HEAD = 860, 260, 18, 26
_BARS = _WIDTH - _LABELS - 110


def bars(title: str, figures: Iterable[Figure]) -> str:
    """A block per case, a bar per candidate, as long as its median's logarithm; who was not run has none."""
    cases: dict[str, list[Figure]] = {}
    for each in figures:
        if not each.not_run and each.median_ms > 0:
            cases.setdefault(each.case, []).append(each)
    rows = sum(len(found) for found in cases.values())
    root = _drawing(title, 44 + rows * _ROW + len(cases) * _HEAD)
    values = [each.median_ms for found in cases.values() for each in found]
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    top = 44
    for case, found in cases.items():
        _text(root, 12, top + 17, case, weight="bold")
        top += _HEAD
        for each in found:
            width = 8 + (_BARS - 8) * position(each.median_ms, low, high)
            _text(root, _LABELS - 8, top + 12, each.candidate, anchor="end")
            box = {"x": str(_LABELS), "y": str(top + 2), "width": f"{width:.1f}", "height": str(_ROW - 5)}
            SubElement(root, "rect", {**box, "rx": "2", "fill": COLOURS[each.kind]})
            _text(root, _LABELS + width + 6, top + 12, amount(each.median_ms, each.unit))
            top += _ROW
    return _written(root)


def lines(title: str, across: str, series: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> str:
    """A line per series through its points; both axes by the logarithm, and zero stands at the left edge."""
    height, left, right, top, bottom = 340, 60, _WIDTH - 230, 50, 290
    root = _drawing(title, height)
    points = [point for found in series.values() for point in found]
    across_values = sorted({x for x, _ in points}) or [1.0]
    low, high = min((y for _, y in points), default=1.0), max((y for _, y in points), default=1.0)
    least = min((x for x in across_values if x > 0), default=1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        shifted = max(x, least / 4 if across_values[0] == 0 else least)
        along = position(shifted, least / 4 if across_values[0] == 0 else least, across_values[-1])
        return left + (right - left) * along, bottom - (bottom - top) * position(y, low, high)

    for x in across_values:
        _text(root, place(x, low)[0], bottom + 18, f"{x:g}", anchor="middle")
    for y in (low, high):
        _text(root, left - 8, place(least, y)[1] + 4, amount(y, unit), anchor="end")
    _text(root, (left + right) / 2, bottom + 38, across, anchor="middle")
    for index, (name, found) in enumerate(series.items()):
        colour = _LINES[index % len(_LINES)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in found))
        SubElement(root, "polyline", {"points": path, "fill": "none", "stroke": colour, "stroke-width": "2"})
        _text(root, right + 14, top + 18 * index + 12, name, fill=colour)
    return _written(root)


def position(number: float, low: float, high: float) -> float:
    """Where it stands between two others, by the logarithm: 0 to 1.

    >>> position(10, 1, 100), position(5, 5, 5)
    (0.5, 1.0)
    """
    if high <= low or number <= 0 or low <= 0:
        return 1.0
    return math.log(number / low) / math.log(high / low)


def amount(number: float, unit: str) -> str:
    """Three digits that count, and the unit.

    >>> amount(0.1234, "ms"), amount(45.678, "MiB"), amount(12345.6, "ms")
    ('0.123 ms', '45.7 MiB', '12346 ms')
    """
    digits = max(0, 2 - math.floor(math.log10(number))) if number > 0 else 0
    return f"{number:.{digits}f} {unit}"


def _drawing(title: str, height: float) -> Element:
    size = {"width": str(_WIDTH), "height": f"{height:.0f}", "viewBox": f"0 0 {_WIDTH} {height:.0f}"}
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img"})
    SubElement(root, "title").text = title
    SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    _text(root, 12, 26, title, size=16, weight="bold")
    return root


def _text(
    root: Element,
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: str = "normal",
    fill: str = "#24292f",
) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-size": str(size)}
    style = {"font-family": "sans-serif", "font-weight": weight, "fill": fill}
    SubElement(root, "text", {**place, **style}).text = text


def _written(root: Element) -> str:
    indent(root)
    return tostring(root, encoding="unicode") + "\n"
