"""How well a few typed characters fit a path: pure, and quick enough for every key stroke.

The characters must occur in order. Points are for those at the beginning of a word or a name, for those that
follow each other, and for the file's own name; what lies between costs a little. Numbers are gut feelings,
held by the examples in the tests.
"""

from __future__ import annotations

import re

_HIT, _FOLLOWS, _BEGINS_WORD, _BEGINS_NAME, _IN_NAME = 16, 12, 10, 14, 4
_BETWEEN, _MOST_BETWEEN = -1, -20
_WORD_ENDS = frozenset("/_-. ")


def sieve(pattern: str, case_sensitive: bool) -> re.Pattern[str]:
    """Finds the lines that hold the characters in order, in one pass and without going back.

    >>> [match[0] for match in sieve("ac", False).finditer("abc\\nca\\nxAyC\\n")]
    ['abc', 'xAyC']
    """
    parts = (f"[^{each}\\n]*{each}" for each in map(re.escape, pattern) if each)
    return re.compile(f"^{''.join(parts)}.*$", re.MULTILINE | (0 if case_sensitive else re.IGNORECASE))


def score(pattern: str, path: str, case_sensitive: bool = False) -> int | None:
    """Points, only good for comparing; None when it does not fit.

    The name's own characters are tried first, then the whole path.

    >>> score("xyz", "a/b") is None, score("app", "src/app.ts") > score("app", "src/a/p/p.ts")
    (True, True)
    """
    text, wanted = (path, pattern) if case_sensitive else (path.lower(), pattern.lower())
    if len(text) != len(path):  # a character whose small letter is two
        text, wanted = path, pattern
    name = path.rfind("/") + 1
    points = [_points(path, found, name) for start in {name, 0} if (found := _nearest(text, wanted, start))]
    return max(points, default=None)


def _nearest(text: str, wanted: str, start: int) -> list[int]:
    """Places of the characters from ``start`` on, as near to each other as the first way through allows."""
    end = start - 1
    for character in wanted:
        end = text.find(character, end + 1)
        if end < 0:
            return []
    places, at = [], end + 1
    for character in reversed(wanted):
        at = text.rfind(character, start, at)
        places.append(at)
    return places[::-1]


def _points(path: str, places: list[int], name: int) -> int:
    total, last = 0, -2
    for place in places:
        total += _HIT + (_IN_NAME if place >= name else 0)
        if place == last + 1:
            total += _FOLLOWS
        elif last >= 0:
            total += max(_MOST_BETWEEN, _BETWEEN * (place - last - 1))
        if place == name:
            total += _BEGINS_NAME
        elif _begins_word(path, place):
            total += _BEGINS_WORD
        last = place
    return total - len(path) // 16


def _begins_word(path: str, place: int) -> bool:
    if place == 0 or path[place - 1] in _WORD_ENDS:
        return True
    return path[place].isupper() and path[place - 1].islower()
