"""An engine with the image of this checkout in it, for as long as the tests of this directory run.

They run only when asked for by name (``-m image``): they need Docker, root to start it where nothing answers,
and minutes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.engine import engine
from tests.image.figures import Figures
from tests.image.support import IMAGE, REPOSITORY

HERE = Path(__file__).parent
FIGURES = pytest.StashKey[Figures]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all tests below here, and leave them out unless the run asks for the mark."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.image)
    if "image" not in config.getoption("markexpr"):
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


@pytest.fixture(scope="session", autouse=True)
def image() -> Iterator[str]:
    """The image of this very checkout: with all layers there, building it again takes seconds."""
    with engine():
        # By itself: what it prints would stand below the first test that fails, and push away why.
        command = [sys.executable, "-m", "scripts.image", "--tag", IMAGE]
        built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert built.returncode == 0, "\n".join(built.stderr.splitlines()[-60:])
        yield IMAGE


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """What is measured on the way."""
    return pytestconfig.stash.setdefault(FIGURES, Figures())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell the figures."""
    if FIGURES in config.stash:
        terminalreporter.section("figures")
        terminalreporter.write_line(config.stash[FIGURES].table())
