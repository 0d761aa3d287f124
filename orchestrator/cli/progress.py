"""How far a launch is, told to a person: moving lines on a terminal, plain ones elsewhere. On stderr."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Protocol

import click

from orchestrator.launch import Observer, Stage
from orchestrator.units import seconds_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")


class Shown(Observer, Protocol):
    """An observer that is closed before anything else is printed."""

    def close(self) -> None:
        """Leave what was shown, and stop moving."""


def observer() -> Shown:
    """The one that fits stderr."""
    return TerminalObserver() if sys.stderr.isatty() else PlainObserver()


def plain_lines(text: str) -> list[str]:
    """Lines of a program's output without colours, cursor movements and blanks.

    >>> plain_lines("\\x1b[32madded\\x1b[0m 12 packages\\r\\n\\n")
    ['added 12 packages']
    """
    lines = (_CONTROL.sub("", line).strip() for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line]


class PlainObserver:
    """One line when a stage ends, and what the tools print in between."""

    def __init__(self) -> None:
        self._unfinished = ""
        """A tool's last line, as long as its end has not come."""

    def began(self, stage: Stage) -> None:
        """Only what may take long is announced."""
        if stage in (Stage.INSTALL, Stage.DEV_SERVER):
            self._print(f"{stage.value}: started")

    def said(self, stage: Stage, text: str) -> None:
        """Its lines, as they come."""
        whole, newline, rest = (self._unfinished + text).rpartition("\n")
        self._unfinished = rest
        for line in plain_lines(whole + newline):
            self._print(f"  | {line}")

    def ended(self, stage: Stage, note: str, seconds: float) -> None:
        """With its duration."""
        self.close()
        self._print(f"{stage.value}: done in {seconds_text(seconds)}{f' ({note})' if note else ''}")

    def skipped(self, stage: Stage, note: str) -> None:
        """And why."""
        self._print(f"{stage.value}: skipped, {note}")

    def remark(self, text: str) -> None:
        """Something worth knowing."""
        self._print(text)

    def close(self) -> None:
        """Print what is left of a line."""
        self.said(Stage.ARCHIVE, "\n")

    def _print(self, line: str) -> None:
        click.echo(line, err=True)


class TerminalObserver:
    """A line per stage, the running one with its clock and its tool's last line."""

    def __init__(self, console: Console | None = None) -> None:
        # rich is imported late: only a terminal needs it.
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._progress: Progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=note),
            console=console or Console(stderr=True),
            expand=True,
        )
        self._tasks: dict[Stage, TaskID] = {}
        self._progress.start()

    def began(self, stage: Stage) -> None:
        """A new line."""
        self._tasks[stage] = self._progress.add_task(stage.value, total=None, note="")

    def said(self, stage: Stage, text: str) -> None:
        """The last line beside the clock."""
        lines = plain_lines(text)
        if lines and stage in self._tasks:
            self._progress.update(self._tasks[stage], note=lines[-1])

    def ended(self, stage: Stage, note: str, seconds: float) -> None:
        """Ticked off, with the exact duration."""
        shown = f"{seconds_text(seconds)}{f', {note}' if note else ''}"
        self._progress.update(self._tasks[stage], total=1, completed=1, note=shown)

    def skipped(self, stage: Stage, note: str) -> None:
        """Ticked off at once."""
        self.began(stage)
        self._progress.update(self._tasks[stage], total=1, completed=1, note=f"skipped: {note}")

    def remark(self, text: str) -> None:
        """Above the moving lines."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the lines as they are."""
        self._progress.stop()
