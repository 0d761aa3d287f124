"""ripgrep's side of a search: what it is told, and what its answers mean. Nothing here runs it.

Its lines are JSON: ``begin`` and ``end`` around each file, ``match`` and ``context`` between them.
"""

from __future__ import annotations

import base64
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

import msgspec
from msgspec import structs

from protocol.messages.search import Match, PatternKind, Search, Where
from protocol.paths import RESERVED, ROOT, WorkspacePath
from toolserver.tools.text import printable

Confirm = Callable[[bytes, int, bytes], Awaitable[bool]]
"""Whether a file that ripgrep names holds these bytes at that offset."""
Naming = Callable[[bytes], str]
"""What a file that ripgrep names is called in an answer."""


def arguments(request: Search, target: str) -> list[str]:
    """ripgrep's arguments: no configuration of the user's, nothing that a pattern or a name could add to.

    >>> arguments(Search(pattern="-x", kind=PatternKind.LITERAL), ".")
    ['--no-config', '--no-require-git', '--json', '--fixed-strings', '--regexp=-x', '--', '.']
    """
    globs = [request.glob] if isinstance(request.glob, str) else request.glob
    # A workspace honours its .gitignore before anybody has made a repository of it.
    options = ["--no-config", "--no-require-git"]
    options += ["--hidden", "--glob=!.git/"] if request.hidden or request.ignored else []
    options += ["--no-ignore"] if request.ignored else []
    options += [f"--glob={glob}" for glob in globs]
    options += [f"--glob=!/{RESERVED}/"] if request.hidden or request.ignored else []
    options += [f"--type={name}" for name in request.types]
    if request.in_ is Where.NAMES:
        return [*options, "--files", "--null", "--", target]
    options += ["--json"]
    options += ["--ignore-case"] if not request.case_sensitive else []
    options += ["--word-regexp"] if request.word else []
    options += ["--multiline"] if request.multiline else []
    options += [f"--before-context={request.before}"] if request.before else []
    options += [f"--after-context={request.after}"] if request.after else []
    options += [f"--max-count={request.max_per_file}"] if request.max_per_file is not None else []
    options += ["--fixed-strings"] if request.kind is PatternKind.LITERAL else []
    return [*options, f"--regexp={request.pattern}", "--", target]


def located_path(base: WorkspacePath, found: bytes, is_file: bool) -> WorkspacePath:
    """What ripgrep calls a file, as the path to open it by."""
    if is_file:
        return base
    name = os.fsdecode(found).removeprefix("./")
    return WorkspacePath(name if base == ROOT else f"{base}/{name}")


def shown_path(base: WorkspacePath, found: bytes, is_file: bool) -> str:
    """What ripgrep calls a file, as a path from the workspace root; ``base`` is where it was told to look.

    >>> shown_path(WorkspacePath("src"), b"./a.ts", is_file=False)
    'src/a.ts'
    >>> shown_path(WorkspacePath("link.ts"), b"a.ts", is_file=True)
    'link.ts'
    """
    return printable(located_path(base, found, is_file))


class Text(msgspec.Struct):
    """ripgrep's way to give text: ``bytes`` in base64 where it is not UTF-8."""

    text: str | None = None
    data: str | None = msgspec.field(default=None, name="bytes")

    def raw(self) -> bytes:
        return self.text.encode() if self.text is not None else base64.b64decode(self.data or "")


class _Submatch(msgspec.Struct):
    start: int


class _Data(msgspec.Struct):
    path: Text | None = None
    lines: Text | None = None
    line_number: int | None = None
    absolute_offset: int = 0
    submatches: list[_Submatch] = []


class _Line(msgspec.Struct):
    type: str
    data: _Data


_decoder = msgspec.json.Decoder(_Line)


async def matched(
    lines: AsyncIterator[bytes], naming: Naming, request: Search, most: int, confirm: Confirm
) -> AsyncIterator[Match]:
    """Matches out of ripgrep's lines, each with the lines around it, as soon as those are known.

    Of lines that ``confirm`` does not know, nothing is told.
    """
    around = Around(request.before, request.after)
    async for line in lines:
        event = _decoder.decode(line)
        found: Iterable[Match] = ()
        if event.type in ("match", "context"):
            name, read = (event.data.path or Text("")).raw(), (event.data.lines or Text("")).raw()
            if not await confirm(name, event.data.absolute_offset, read):
                continue
            match = _match(event.data, naming(name), read, most) if event.type == "match" else None
            found = around.feed(event.data.line_number or 0, _texts(read, most), match)
        elif event.type == "end":
            found = around.end()
        for each in found:
            yield each


class Around:
    """Gives each match of a file the lines around it, which come before and after it.

    >>> around = Around(before=1, after=1)
    >>> match = Match(path="a", line=2, column=1, text="two")
    >>> [*around.feed(1, ["one"], None), *around.feed(2, ["two"], match), *around.feed(3, ["three"], None)]
    []
    >>> [(each.before, each.after) for each in around.end()]
    [(['one'], ['three'])]
    """

    def __init__(self, before: int, after: int) -> None:
        self._before, self._after = before, after
        self._lines: dict[int, str] = {}
        self._waiting: deque[Match] = deque()

    def feed(self, number: int, texts: list[str], match: Match | None) -> Iterator[Match]:
        """The matches that are complete, now that these lines, from ``number`` on, are known."""
        if match is not None and not (self._before or self._after):
            yield match
            return
        yield from self._complete(number)
        self._lines.update(enumerate(texts, number))
        if match is not None:
            self._waiting.append(match)

    def end(self) -> Iterator[Match]:
        """The rest of the file's matches."""
        yield from self._complete(None)
        self._lines.clear()

    def _complete(self, number: int | None) -> Iterator[Match]:
        while self._waiting and (number is None or _last_line(self._waiting[0]) + self._after < number):
            yield self._with_lines(self._waiting.popleft())
        if number is not None:
            first = min(number, self._waiting[0].line if self._waiting else number) - self._before
            for old in [each for each in self._lines if each < first]:
                del self._lines[old]

    def _with_lines(self, match: Match) -> Match:
        last = _last_line(match)
        before = range(match.line - self._before, match.line)
        after = range(last + 1, last + 1 + self._after)
        return structs.replace(
            match,
            before=[self._lines[each] for each in before if each in self._lines],
            after=[self._lines[each] for each in after if each in self._lines],
        )


def _last_line(match: Match) -> int:
    return match.end_line or match.line


def _texts(read: bytes, most: int) -> list[str]:
    """The lines of an event, without their ends."""
    lines = read.rstrip(b"\n").split(b"\n")
    return [line.rstrip(b"\r")[:most].decode(errors="replace") for line in lines]


def _match(data: _Data, path: str, line: bytes, max_bytes: int) -> Match:
    start = data.submatches[0].start if data.submatches else 0
    text = line.rstrip(b"\r\n")
    ends = text.count(b"\n")
    return Match(
        path=path,
        line=data.line_number or 0,
        column=len(line[:start].rpartition(b"\n")[2].decode(errors="replace")) + 1,
        text=text[:max_bytes].decode(errors="replace"),
        text_truncated=len(text) > max_bytes,
        end_line=(data.line_number or 0) + ends if ends else None,
    )
