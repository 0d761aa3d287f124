"""How much is measured: the quick run and the full one differ in nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Bounds of one run; each case stops at whichever of the first two comes first."""

    runs: int
    """Rounds of a case whose acts take about a millisecond."""
    seconds: float
    """For the rounds of one case."""
    act_seconds: float
    """For one act of a contender; who takes longer is left out of the case, and the report says so."""
    heavy_runs: int
    """Rounds of a case whose acts take a second or so."""
    files: tuple[int, ...]
    """Sizes of the trees that are searched."""
    tree_files: int
    """Files of the large archive."""
    large_bytes: int
    """Of the one large file of an archive."""
    clients: tuple[int, ...]
    """Askers at once."""
    sessions: int
    """Begun for the figure of sessions a minute."""
    templates: tuple[str, ...]
    """Brought up to their page."""


QUICK = Scale(
    runs=100,
    seconds=1.5,
    act_seconds=8.0,
    heavy_runs=2,
    files=(100, 1000, 50_000),
    tree_files=3000,
    large_bytes=50_000_000,
    clients=(1, 64),
    sessions=8,
    templates=("static-html", "vite-vanilla"),
)
FULL = Scale(
    runs=400,
    seconds=5.0,
    act_seconds=20.0,
    heavy_runs=7,
    files=(100, 1000, 50_000),
    tree_files=30_000,
    large_bytes=500_000_000,
    clients=(1, 16, 64, 256),
    sessions=48,
    templates=(
        "static-html",
        "vite-vanilla",
        "vite-react-ts",
        "vite-svelte-ts",
        "node-api",
        "research-pipeline",
        "astro-minimal",
        "astro-landing",
    ),
)
