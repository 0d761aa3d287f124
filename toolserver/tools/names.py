"""search in names: from the index that the watcher keeps, so that nobody walks 50 000 files per key stroke.

What is hidden, or left out by .gitignore and .ignore files, is told apart here by ripgrep's own rules: a
deeper file counts before a higher one, its last pattern that matches decides, and nothing comes back out of a
directory that is left out. What tools fill (node_modules and the like) is not in the index.
"""

from __future__ import annotations

import asyncio
import bisect
import functools
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from protocol.errors import InvalidRequest, ToolError, Unavailable
from protocol.limits import Limits
from protocol.messages.search import Match, Matches, PatternKind, Search, SearchAnswer
from protocol.paths import ROOT, WorkspacePath
from toolserver.system.confinement import unconfined
from toolserver.system.disk import Disk
from toolserver.system.tree_index import is_passed_over
from toolserver.system.watcher import Snapshot, Watcher
from toolserver.tools.call import Call
from toolserver.tools.fuzzy import score, sieve
from toolserver.tools.patterns import Globs, ignore_file, spec
from toolserver.tools.text import printable

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILES = (".rgignore", ".ignore", ".gitignore")
"""The first kind that says anything of a path decides."""
_MAX_IGNORE_BYTES = 1024 * 1024
_BATCH = 100
_MAX_LISTS = 8
"""Of names in one directory or another, kept for whoever asks again at the next key stroke."""

Walk = Callable[[], Awaitable[list[str]]]
Choose = Callable[["Listed"], Iterable[tuple[str, int | None]]]
"""The names that fit, with a score or None."""


@dataclass
class Listed:
    """Names in order, and as one text for expressions that look through all of them at once."""

    names: list[str]

    @functools.cached_property
    def text(self) -> str:
        """One name a line; a name that holds a line end stands there with a blank in its place."""
        return "\n".join(name.replace("\n", " ") for name in self.names)

    @functools.cached_property
    def small(self) -> str:
        """The same in small letters, where that leaves every character in its place."""
        small = self.text.lower()
        return small if len(small) == len(self.text) else self.text

    @functools.cached_property
    def starts(self) -> list[int]:
        """Where in the text each name begins."""
        return [0, *itertools.accumulate(len(name) + 1 for name in self.names[:-1])]

    def below(self, directory: str) -> Listed:
        """Those in a directory, or the one file of that name."""
        if directory == ROOT:
            return self
        low = bisect.bisect_left(self.names, f"{directory}/")
        high = bisect.bisect_left(self.names, f"{directory}0")  # the character after the slash
        at = bisect.bisect_left(self.names, directory)
        alone = self.names[at : at + 1] if self.names[at : at + 1] == [directory] else []
        return Listed([*alone, *self.names[low:high]])


@dataclass
class Ignoring:
    """Which paths the ignore files of a tree leave out; asked again for nothing that it knows."""

    specs: dict[tuple[str, str], GitIgnoreSpec] = field(default_factory=dict)
    """By kind of file and directory."""
    _known: dict[str, bool] = field(default_factory=dict)

    def leaves_out(self, path: str, is_directory: bool = False) -> bool:
        """Whether the path, or a directory above it, is left out.

        >>> rules = Ignoring({(".gitignore", ""): ignore_file(["*.log", "out/"]),
        ...                   (".gitignore", "a"): ignore_file(["!keep.log"])})
        >>> [rules.leaves_out(path) for path in ("x.log", "a/x.log", "a/keep.log", "out/x", "a/b")]
        [True, True, False, True, False]
        """
        if not self.specs:
            return False
        if is_directory and path in self._known:
            return self._known[path]
        above = path.rpartition("/")[0]
        result = (bool(above) and self.leaves_out(above, True)) or self._decides(path, is_directory)
        if is_directory:
            self._known[path] = result
        return result

    def _decides(self, path: str, is_directory: bool) -> bool:
        for kind in IGNORE_FILES:
            for above in _directories_above(path):
                rules = self.specs.get((kind, above))
                if rules is not None:
                    name = path[len(above) + 1 :] if above else path
                    verdict = rules.check_file(f"{name}/" if is_directory else name).include
                    if verdict is not None:
                        return bool(verdict)
        return False


class Names:
    """The names that a search may find."""

    def __init__(self, watcher: Watcher, disk: Disk, limits: Limits) -> None:
        self._watcher = watcher
        self._disk = disk
        self._limits = limits
        self._judged: tuple[object, Ignoring, dict[str, bool]] = (None, Ignoring(), {})
        """What was judged by, and of which name what. Taken and given as one: searches are on threads."""
        self._lists: tuple[object, dict[tuple[bool, str], Listed]] = (None, {})

    async def search(self, request: Search, limit: int, call: Call, walk: Walk) -> SearchAnswer:
        """What fits, in path order, fuzzy names by score. Raises InvalidRequest for what is no pattern.

        ``walk`` finds names where the index has none: in what is ignored, and in a tree too large to follow.
        """
        path = self._disk.path(request.path)
        choose = choosing(request)
        snapshot = await self._snapshot(request, path)
        if snapshot is None:
            found = await asyncio.to_thread(_chosen, Listed(await walk()), choose, lambda _: True, limit)
        else:
            found = await asyncio.to_thread(self._found, snapshot, request, path, choose, limit)
        shown = found[:limit]
        if call.streaming:
            for at in range(0, len(shown), _BATCH):
                await call.emit(Matches(matches=shown[at : at + _BATCH]))
        return SearchAnswer(
            matches=[] if call.streaming else shown,
            match_count=len(shown),
            file_count=len(shown),
            truncated=len(found) > limit,
        )

    async def _snapshot(self, request: Search, path: WorkspacePath) -> Snapshot | None:
        """None where the index does not know the names that are asked for."""
        if request.ignored or request.types or any(is_passed_over(part) for part in path.split("/")):
            return None
        try:
            return await self._watcher.snapshot()
        except Unavailable:
            return None

    def _found(
        self, snapshot: Snapshot, request: Search, path: WorkspacePath, choose: Choose, limit: int
    ) -> list[Match]:
        real = self._disk.real_path(path)
        listed = self._listed(snapshot, request.hidden, real)
        found = _chosen(listed, choose, Globs.of(request.glob).fits, limit)
        return (
            found if real == path else [replace(each, path=path + each.path[len(real) :]) for each in found]
        )

    def _listed(self, snapshot: Snapshot, hidden: bool, below: str) -> Listed:
        """The names that count in a directory; kept until something comes or goes."""
        version, lists = self._lists
        if version != snapshot.version or len(lists) > _MAX_LISTS:
            self._lists = version, lists = snapshot.version, {}
        if (hidden, ROOT) not in lists:
            kept = (name for name in self._kept(snapshot) if hidden or not _is_hidden(name))
            lists[hidden, ROOT] = Listed([*kept])
        if (hidden, below) not in lists:
            lists[hidden, below] = lists[hidden, ROOT].below(below)
        return lists[hidden, below]

    def _kept(self, snapshot: Snapshot) -> Iterator[str]:
        """What no ignore file leaves out. Known names are not judged again until an ignore file changes."""
        rules = {
            path: entry for path, entry in snapshot.files.items() if path.rpartition("/")[2] in IGNORE_FILES
        }
        before, ignoring, known = self._judged
        if before != rules:
            ignoring, known = Ignoring({self._place(path): self._read(path) for path in rules}), {}
        verdicts = {
            name: known[name] if name in known else ignoring.leaves_out(name) for name in snapshot.files
        }
        self._judged = rules, ignoring, verdicts
        return (name for name, left_out in sorted(verdicts.items()) if not left_out)

    def _place(self, path: str) -> tuple[str, str]:
        above, _, name = path.rpartition("/")
        return name, above

    def _read(self, path: str) -> GitIgnoreSpec:
        """The patterns of an ignore file; none of one that cannot be read."""
        try:
            with unconfined():
                data, _ = self._disk.read(WorkspacePath(path), _MAX_IGNORE_BYTES)
            return ignore_file(data.decode(errors="replace").splitlines())
        except ToolError:
            return ignore_file([])


def choosing(request: Search) -> Choose:
    """How the names that fit are found; raises InvalidRequest.

    >>> listed = Listed(["src/main.ts", "src/maintain.md"])
    >>> list(choosing(Search(pattern="*.ts", kind=PatternKind.GLOB))(listed))
    [('src/main.ts', None)]
    """
    if request.kind is PatternKind.FUZZY:
        # Small letters stand for both: nobody types a capital to find a name quickly, unless it matters.
        exact = request.case_sensitive and request.pattern != request.pattern.lower()
        return lambda listed: ranked(request.pattern, listed, exact)
    if request.kind is PatternKind.GLOB:
        rules = spec([request.pattern], "pattern")
        return lambda listed: ((name, None) for name in listed.names if rules and rules.match_file(name))
    if request.kind is PatternKind.LITERAL and request.case_sensitive and not request.word:
        return lambda listed: ((name, None) for name in listed.names if request.pattern in name)
    found = name_pattern(request).search
    return lambda listed: ((name, None) for name in listed.names if found(name))


def name_pattern(request: Search) -> re.Pattern[str]:
    """The pattern of a search in names as an expression; raises InvalidRequest.

    >>> bool(name_pattern(Search(pattern="a.b", kind=PatternKind.LITERAL)).search("x/a.b"))
    True
    """
    text = request.pattern if request.kind is PatternKind.REGEX else re.escape(request.pattern)
    text = rf"\b(?:{text})\b" if request.word else text
    try:
        return re.compile(text, 0 if request.case_sensitive else re.IGNORECASE)
    except re.error as error:
        raise InvalidRequest(f"'pattern' is no regular expression: {error}", field="pattern") from None


def ranked(pattern: str, listed: Listed, case_sensitive: bool) -> Iterator[tuple[str, int]]:
    """The names that hold the characters of ``pattern`` in order, the best first.

    >>> [name for name, _ in ranked("mts", Listed(["a/main.ts", "mats/x", "tsm"]), False)]
    ['a/main.ts', 'mats/x']
    """
    text, wanted = (listed.text, pattern) if case_sensitive else (listed.small, pattern.lower())
    scored = []
    for line in sieve(wanted).finditer(text):
        number = bisect.bisect_right(listed.starts, line.start()) - 1
        name = listed.names[number]
        scored.append((-score(wanted, text[listed.starts[number] : line.end()], name), name))
    return ((name, -points) for points, name in sorted(scored))


def _chosen(listed: Listed, choose: Choose, wanted: Callable[[str], bool], limit: int) -> list[Match]:
    """At most one more than the limit, to tell that there are more."""
    fitting = ((name, points) for name, points in choose(listed) if wanted(name))
    return [
        Match(path=printable(name), line=0, column=0, text="", score=points)
        for name, points in itertools.islice(fitting, limit + 1)
    ]


def _is_hidden(path: str) -> bool:
    return path.startswith(".") or "/." in path


def _directories_above(path: str) -> Iterator[str]:
    """From the nearest to the root, which is ``""``."""
    while path:
        path = path.rpartition("/")[0]
        yield path
