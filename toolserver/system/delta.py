"""A delta's way onto the tree: onto the one that it was made from alone, and if what it promises comes out.

    look at the root -> is it the base? -> look at what is staged -> does the result have its digest? -> steps

So a delta on another tree changes nothing, and neither does one whose parts do not go together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.archives import MemberPath
from protocol.errors import ArchiveInvalid, Conflict
from protocol.exclusions import Exclusions
from protocol.limits import Limits
from protocol.manifests import Delta, Entry, applied, tree_digest
from protocol.tar import Kind
from toolserver.system import swap_steps
from toolserver.system.journal import Step
from toolserver.system.tarballs.record import Record
from toolserver.system.tarballs.walk import Walk


def survey(root: int, exclusions: Exclusions, limits: Limits) -> dict[bytes, Entry]:
    """All that a save of ``root``, a descriptor, would hold, by path. Reads every file."""
    found: list[Entry] = []
    for _, content in Walk(root, exclusions, limits, None, Record(found.append)).entries():
        for _ in content:
            pass
    return {entry.path: entry for entry in found}


def putting(
    root: int, new: int, delta: Delta, removed: Sequence[MemberPath], limits: Limits
) -> tuple[list[Step], Mapping[str, tuple[int, int]]]:
    """The steps from ``root`` to what the delta says, and modes before and after of directories that stay.

    Both are descriptors; ``new`` holds what the delta brings. Raises Conflict, ArchiveInvalid.
    """
    rules = Exclusions.default().with_rules(delta.exclude, delta.include)
    base = survey(root, rules, limits)
    _refuse_other_base(delta, tree_digest(base.values()))
    staged = survey(new, Exclusions.nothing(), limits)
    gone = [path.encode("utf-8", "surrogateescape") for path in removed]
    result = tree_digest(applied(base, staged.values(), gone).values())
    if result != delta.tree:
        raise ArchiveInvalid(
            f"put onto its base, the delta makes a tree {result}, not {delta.tree} as it says; "
            "nothing was changed",
            tree=result,
        )
    leaving = frozenset(removed)
    tops = [path for path in leaving if not _is_below(path, leaving, staged)]
    return [*swap_steps.leaving(root, sorted(tops)), *swap_steps.merging(root, new)], _modes(base, staged)


def _refuse_other_base(delta: Delta, tree: str) -> None:
    if tree != delta.base:
        raise Conflict(
            f"the delta belongs onto the content of save {delta.since}, and the workspace holds something "
            "else: inject that save first; nothing was changed",
            since=delta.since,
            base=delta.base,
            tree=tree,
        )


def _is_below(path: str, removed: frozenset[str], staged: Mapping[bytes, Entry]) -> bool:
    """Whether ``path`` goes with something above it: that leaves too, or gives way to no directory."""
    above = path.rpartition("/")[0]
    while above:
        entry = staged.get(above.encode("utf-8", "surrogateescape"))
        if above in removed or (entry is not None and entry.kind is not Kind.DIRECTORY):
            return True
        above = above.rpartition("/")[0]
    return False


def _modes(base: Mapping[bytes, Entry], staged: Mapping[bytes, Entry]) -> dict[str, tuple[int, int]]:
    pairs = ((base.get(path), entry) for path, entry in staged.items() if entry.kind is Kind.DIRECTORY)
    return {
        entry.name: (before.mode, entry.mode)
        for before, entry in pairs
        if before is not None and before.kind is Kind.DIRECTORY and before.mode != entry.mode
    }
