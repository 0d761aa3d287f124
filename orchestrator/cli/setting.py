"""The option ``--set name=value``: what a template's variables get."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click


def given_values(words: Iterable[str]) -> dict[str, str]:
    """
    >>> given_values(["title=A = b", "dark="])
    {'title': 'A = b', 'dark': ''}
    >>> given_values(["title"])
    Traceback (most recent call last):
    click.exceptions.BadParameter: give it as name=value, not 'title'
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"give it as name=value, not {word!r}")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice")
        found[name] = value
    return found


def _parsed(_context: click.Context, _option: click.Parameter, words: tuple[str, ...]) -> dict[str, Any]:
    return given_values(words)


set_option = click.option(
    "--set",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parsed,
    help="A value for a variable of the template; once for each.",
)
