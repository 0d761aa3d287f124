"""Which paths stay out of an archive, as data.

A rule is a pattern on names: ``*``, ``?`` and ``[...]`` match within one component. ``name`` counts at any
depth, ``/name`` and ``a/name`` from the root only, and a trailing slash means directories alone. Rules are
read in order and the last that matches decides, component by component: what lies in an excluded directory is
excluded, whatever is said of it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache

import msgspec

from protocol.errors import InvalidRequest
from protocol.paths import RESERVED


class Rule(msgspec.Struct, frozen=True, array_like=True):
    """One pattern, and whether what it matches stays out."""

    pattern: str
    excluded: bool = True


# What a person builds, installs, caches or edits locally, and must not travel. The four names that people
# also give to directories of their own sources (src/build, docs/tmp) are anchored at the root.
DEFAULT_EXCLUDED = (
    "node_modules", ".git", "/dist", "/build", ".next", ".nuxt", ".output", ".vercel", ".netlify", ".astro",
    "/coverage", ".nyc_output", "*.log", ".DS_Store", "Thumbs.db", ".env*", ".vscode", ".idea",
    "*.swp", "*.swo", "*~", ".cache", ".tmp", "/tmp",
)  # fmt: skip
HISTORY = ".git"
DEFAULT_INCLUDED = (".env.example",)


class Exclusions(msgspec.Struct, frozen=True, dict=True):
    """An ordered list of rules. The tool server's own directory is excluded by every one of them."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def default(cls) -> Exclusions:
        """The rules for saves and templates.

        >>> rules = Exclusions.default()
        >>> [rules.excludes(path) for path in ("src/build/a.ts", "build/a", "a/.env.local", ".env.example")]
        [False, True, True, False]
        """
        return cls().with_rules(DEFAULT_EXCLUDED, DEFAULT_INCLUDED)

    @classmethod
    def nothing(cls) -> Exclusions:
        """No rules: everything goes along but the tool server's own directory."""
        return cls()

    def with_rules(self, exclude: Iterable[str] = (), include: Iterable[str] = ()) -> Exclusions:
        """These rules, then ``exclude``, then ``include``; InvalidRequest for a pattern that matches nothing.

        >>> Exclusions.default().with_rules(exclude=["*.mp4"], include=["/dist"]).excludes("dist/index.html")
        False
        """
        added = [Rule(_checked(pattern), True) for pattern in exclude]
        added += [Rule(_checked(pattern), False) for pattern in include]
        return Exclusions((*self.rules, *added))

    def excludes(self, path: str, is_directory: bool = False) -> bool:
        """Whether ``path`` (relative, normal form) or a directory above it is excluded.

        >>> with_history = Exclusions.default().with_rules(include=[".git"])
        >>> with_history.excludes(".git/refs/heads/fix.log"), with_history.excludes("fix.log")
        (False, True)
        """
        parts = path.split("/")
        last = len(parts)
        return any(self._decides(parts[:end], end < last or is_directory) for end in range(1, last + 1))

    def excludes_entry(self, path: str, is_directory: bool = False) -> bool:
        """The same for a walk that never enters an excluded directory: only the last component is judged."""
        return self._decides(path.split("/"), is_directory)

    def _decides(self, parts: list[str], is_directory: bool) -> bool:
        if parts == [RESERVED]:
            return True
        if HISTORY in parts[:-1]:  # a history goes along whole or not at all: a branch may be called fix.log
            return False
        # Most names match no rule at all: one expression for all of them says so at once.
        if not self._any_name.match(parts[-1]):
            return False
        newest_first = (rule for rule in reversed(self.rules) if _matches(rule.pattern, parts, is_directory))
        return next((rule.excluded for rule in newest_first), False)

    @cached_property
    def _any_name(self) -> re.Pattern[str]:
        names = {_parsed(rule.pattern).parts[-1].pattern for rule in self.rules}
        return re.compile("|".join(sorted(names)) or r"(?!)")


class _Parsed(msgspec.Struct, frozen=True):
    parts: tuple[re.Pattern[str], ...]
    is_anchored: bool
    directories_only: bool


@lru_cache(maxsize=4096)
def _parsed(pattern: str) -> _Parsed:
    names = [name for name in pattern.split("/") if name]
    return _Parsed(
        parts=tuple(re.compile(fnmatch.translate(name)) for name in names),
        is_anchored=pattern.startswith("/") or len(names) > 1,
        directories_only=pattern.endswith("/"),
    )


def _matches(pattern: str, parts: list[str], is_directory: bool) -> bool:
    parsed = _parsed(pattern)
    if parsed.directories_only and not is_directory:
        return False
    if not parsed.is_anchored:
        return bool(parsed.parts[0].match(parts[-1]))
    return len(parts) == len(parsed.parts) and all(
        name.match(part) for name, part in zip(parsed.parts, parts, strict=True)
    )


def _checked(pattern: str) -> str:
    names = [name for name in pattern.split("/") if name]
    if not names or "." in names or ".." in names or "\0" in pattern:
        raise InvalidRequest(
            f"the pattern {pattern!r} can match no path; write a name ('*.log') or a path ('/dist')",
            pattern=pattern,
        )
    return pattern
