"""What a save is called, which saves stay, and from which one a workspace is brought up again. Pure.

A save is counted, not only dated: the number in its name says which is newer, also after the clock went back.
The newest saves stay and the oldest go, so that two who decide at once never take away more than one alone.
A damaged save is never passed over in silence: whoever asks is told of it, and of both ways to go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from protocol.limits import GIB

_NAME = re.compile(r"(\d{4,18})_(\d{8}_\d{6})_[0-9a-f]{8}")


class SaveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down beside a save's archive."""

    name: str
    number: int
    """One more than the newest save had when this one was begun; two made at once may share it."""
    created: str
    """ISO 8601 UTC."""
    workspace: str
    session: str | None
    """Whose state it is; None for one that was brought in from elsewhere."""
    format: str
    size: int
    """Bytes of the archive as it lies on disk."""
    sha256: str
    """Of the archive as it lies on disk, in hexadecimal."""
    digest: str
    """``sha256:…`` of the uncompressed tar: equal trees have equal ones."""
    files: int


@dataclass(frozen=True)
class Kept:
    """A save on disk, as far as a look at the directory tells."""

    name: str
    size: int
    """Bytes of the archive."""
    created: datetime
    """UTC."""
    record: SaveRecord | None = None
    """None when nothing readable was written down: then only its content can be judged."""

    @property
    def order(self) -> tuple[int, datetime, str]:
        """Sorts saves, oldest first."""
        return number_of(self.name), self.created, self.name

    @property
    def is_complete(self) -> bool:
        """Whether it has the size that was written down. What is in it takes a reading."""
        return self.record is None or self.record.size == self.size


def new_name(number: int, now: datetime, randomness: bytes) -> str:
    """
    >>> new_name(12, datetime(2026, 11, 21, 9, 34, 5), bytes([1, 2, 3, 255]))
    '0012_20261121_093405_010203ff'
    """
    return f"{number:04d}_{now:%Y%m%d_%H%M%S}_{randomness.hex()}"


def number_of(name: str) -> int:
    """The number in a save's name; 0 in a name that is none of ours, so that it counts as the oldest.

    >>> number_of("0012_20261121_093405_010203ff"), number_of("20261121_093405_678")
    (12, 0)
    """
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def newest_first(saves: Iterable[Kept]) -> list[Kept]:
    """In the order in which they are worth anything."""
    return sorted(saves, key=lambda save: save.order, reverse=True)


@dataclass(frozen=True)
class Retention:
    """Which saves stay. What is past any of the three bounds goes, oldest first."""

    count: int = 5
    """At most so many, and never less than one."""
    max_age: timedelta = timedelta(days=90)
    """Since the save was made. A gut feeling: a quarter of a year, after which nobody asks."""
    max_bytes: int = 8 * GIB
    """All saves of one workspace together: four of the largest archives that there can be."""
    ageless: int = 2
    """So many of the newest never go for their age: a clock that jumps ahead makes all of them old."""


KEEP = Retention()
"""What stays when nobody says anything else."""


def to_drop(saves: Iterable[Kept], now: datetime, retention: Retention = KEEP) -> list[Kept]:
    """The saves that have to go, oldest first. The newest complete one never does.

    Incomplete ones take no place, and go only with those that are older than all that stay.

    >>> at = datetime(2026, 11, 21)
    >>> saves = [Kept(new_name(n, at, bytes(4)), 10, at) for n in range(1, 8)]
    >>> [number_of(save.name) for save in to_drop(saves, at)]
    [1, 2]
    >>> [number_of(save.name) for save in to_drop(saves, at, Retention(max_bytes=25))]
    [1, 2, 3, 4, 5]
    >>> [number_of(save.name) for save in to_drop(saves, at + timedelta(days=365))]
    [1, 2, 3, 4, 5]
    """
    stay, used = 0, 0
    ordered = newest_first(saves)
    for place, save in enumerate(ordered):
        if not save.is_complete:
            continue
        used += save.size
        too_old = now - save.created > retention.max_age and stay >= retention.ageless
        if stay and (stay >= retention.count or used > retention.max_bytes or too_old):
            return ordered[place:][::-1]
        stay += 1
    return []


@dataclass(frozen=True)
class ContentWish:
    """What somebody wants a workspace to be brought up from; the latest save, if nothing is said."""

    save: str | None = None
    """A save's name, or its number."""
    template: bool = False
    """Its template, although there may be saves. They are kept."""
    running: bool = False
    """It runs, and is put back where it is: other commands do that."""


LATEST = ContentWish()
"""What is wished when nobody says anything else."""


@dataclass(frozen=True)
class FromSave:
    """Restore this one."""

    name: str


@dataclass(frozen=True)
class FromTemplate:
    """Begin anew."""

    keep_first: bool
    """Whether what comes of it is to be kept as a save at once: there is none yet."""


@dataclass(frozen=True)
class Refused:
    """A person has to decide: ``message`` offers what there is."""

    message: str
    good: tuple[str, ...]
    """Saves that are whole, newest first."""


Content = FromSave | FromTemplate | Refused
Verdicts = Mapping[str, str | None]
"""By a save's name what is wrong with it, None for one that is whole; none for one that was not looked at."""


def choose_content(
    saves: Sequence[Kept], verified: Verdicts, wish: ContentWish = LATEST, workspace: str = "WORKSPACE"
) -> Content:
    """Where a workspace's content comes from. The one that is chosen has to be in ``verified``.

    ``workspace`` is its name, for a command to paste.

    >>> at = datetime(2026, 11, 21)
    >>> one, two = (Kept(new_name(n, at, bytes(4)), 10, at) for n in (1, 2))
    >>> choose_content([one, two], {two.name: None})
    FromSave(name='0002_20261121_000000_00000000')
    >>> choose_content([], {})
    FromTemplate(keep_first=True)
    >>> choose_content([one], {one.name: "damaged"}, ContentWish(template=True))
    FromTemplate(keep_first=False)
    >>> print(choose_content([one, two], {two.name: "it is cut short", one.name: None}).message)
    save 0002_20261121_000000_00000000 cannot be restored: it is cut short. Nothing was started. \
Restore an older one by `workspace up --workspace WORKSPACE --save 0001_20261121_000000_00000000`, or begin \
anew by `workspace up --workspace WORKSPACE --from-template`; no save is removed by either
    """
    if wish.template:
        return FromTemplate(keep_first=not saves)
    if not saves and wish.save is None:
        return FromTemplate(keep_first=True)
    chosen = find_save(saves, wish.save)
    if chosen is None:
        return _refused(f"there is no save {wish.save!r}", saves, verified, wish, workspace)
    if chosen.name not in verified:
        raise ValueError(f"{chosen.name} was not verified")
    if why := verified[chosen.name]:
        return _refused(f"save {chosen.name} cannot be restored: {why}", saves, verified, wish, workspace)
    return FromSave(chosen.name)


def find_save(saves: Iterable[Kept], wanted: str | None) -> Kept | None:
    """The save of that name or number, the newest one for None; None when there is none, or several.

    >>> at = datetime(2026, 11, 21)
    >>> one = Kept(new_name(7, at, bytes(4)), 10, at)
    >>> find_save([one], "7") == find_save([one], one.name) == find_save([one], None) == one
    True
    >>> find_save([one], "8")
    """
    ordered = newest_first(saves)
    if wanted is None:
        return ordered[0] if ordered else None
    exact = [save for save in ordered if save.name == wanted]
    numbered = [save for save in ordered if wanted.isdecimal() and number_of(save.name) == int(wanted)]
    found = exact or numbered
    return found[0] if len(found) == 1 else None


def _refused(
    what: str, saves: Sequence[Kept], verified: Verdicts, wish: ContentWish, workspace: str
) -> Refused:
    good = tuple(save.name for save in newest_first(saves) if verified.get(save.name, "") is None)
    other = "an older one" if wish.save is None else "another one"
    up = f"workspace up --workspace {workspace}"
    if wish.running:
        back = f"workspace saves restore {workspace} --save"
        ways = f"Put it back to {other} by `{back} {good[0]}`" if good else "No other save is whole"
        return Refused(f"{what}. Nothing was changed. {ways}", good)
    anew = f"begin anew by `{up} --from-template`"
    if good:
        ways = f"Restore {other} by `{up} --save {good[0]}`, or {anew}; no save is removed by either"
    else:
        ways = f"No other save is whole; {anew}, which removes none of them"
    return Refused(f"{what}. Nothing was started. {ways}", good)
