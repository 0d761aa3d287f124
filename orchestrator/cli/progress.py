"""How far a launch is, told to a person: moving lines on a terminal, plain ones elsewhere. On stderr.

Whether anybody still reads it changes nothing: a terminal that was closed must not keep a workspace from
being ended.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import deque
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, Protocol

from orchestrator.cli.common import tell
from orchestrator.launch import Observer, Stage
from orchestrator.units import seconds_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

_SHOWN_LINES = 200
"""Of a tool's output that are remembered. An error brings its last fifteen along."""

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")


class Shown(Observer, Protocol):
    """An observer that is closed before anything else is printed."""

    def close(self) -> None:
        """Leave what is done, drop what is half done, and stop moving."""

    def showed(self, lines: Iterable[str]) -> bool:
        """Whether all of these lines of a tool stand there for a person to read."""


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
        self._shown: deque[str] = deque(maxlen=_SHOWN_LINES)

    def began(self, stage: Stage) -> None:
        """Only what may take long is announced."""
        if stage in (Stage.INSTALL, Stage.DEV_SERVER):
            tell(f"{stage.value}: started")

    def said(self, stage: Stage, text: str) -> None:
        """Its lines, as they come."""
        whole, newline, rest = (self._unfinished + text).rpartition("\n")
        self._unfinished = rest
        for line in plain_lines(whole + newline):
            self._shown.append(line)
            tell(f"  | {line}")

    def ended(self, stage: Stage, note: str, seconds: float) -> None:
        """With its duration."""
        self.close()
        tell(f"{stage.value}: done in {seconds_text(seconds)}{f' ({note})' if note else ''}")

    def skipped(self, stage: Stage, note: str) -> None:
        """And why."""
        tell(f"{stage.value}: skipped, {note}")

    def remark(self, text: str) -> None:
        """Something worth knowing."""
        tell(text)

    def close(self) -> None:
        """Print what is left of a line."""
        self.said(Stage.ARCHIVE, "\n")

    def showed(self, lines: Iterable[str]) -> bool:
        """All of them were printed as they came."""
        return set(plain_lines("\n".join(lines))) <= set(self._shown)


class TerminalObserver:
    """A line per stage, the running one with its clock and its tool's last line."""

    def __init__(self, console: Console | None = None) -> None:
        # rich is imported late: only a terminal needs it.
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn
        from rich.table import Column

        note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._progress: Progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            _clock(),
            TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=note),
            console=console or Console(file=_Lasting(sys.stderr)),  # type: ignore[arg-type]
            expand=True,
        )
        self._tasks: dict[Stage, TaskID] = {}
        self._progress.start()

    def began(self, stage: Stage) -> None:
        """A new line; one of the same stage that came to nothing goes."""
        self._drop(stage)
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
        """Leave the ticked lines, and nothing that still seems to move."""
        for stage in tuple(self._tasks):
            self._drop(stage)
        self._progress.stop()

    def showed(self, lines: Iterable[str]) -> bool:
        """Only the last one, and that is gone."""
        return False

    def _drop(self, stage: Stage) -> None:
        task = self._tasks.pop(stage, None)
        if task is not None and not self._progress.tasks[self._progress.task_ids.index(task)].finished:
            self._progress.remove_task(task)


def _clock() -> ProgressColumn:
    """Runs beside what is under way. What is done tells its exact duration, and needs no second one."""
    from rich.progress import Task, TimeElapsedColumn
    from rich.text import Text

    class Clock(TimeElapsedColumn):
        def render(self, task: Task) -> Text:
            return Text("") if task.finished else super().render(task)

    return Clock()


class _Lasting:
    """A stream whose writes go nowhere once its terminal is gone."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
