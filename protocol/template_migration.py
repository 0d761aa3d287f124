"""template.json as it once was, {metadata, build, development, files, dependencies}, in today's flat form.

A table of moves and nothing clever: what has no place today is left out, and each such field is told with the
reason. Nothing is invented, so what the old file did not say is found in the directory, as for any template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol.errors import InvalidRequest
from protocol.templates import NESTED_KEYS, TEMPLATE_FILE, is_nested, parse_template

MOVES: dict[str, tuple[str, ...]] = {
    "id": ("metadata.id", "metadata.slug"),
    "version": ("metadata.version",),
    "name": ("metadata.displayName", "metadata.title", "metadata.name"),
    "description": ("metadata.description",),
    "packageManager": ("build.packageManager", "development.packageManager"),
    "installCommand": ("build.installCommand", "build.install", "development.installCommand"),
    "devCommand": (
        "development.devCommand",
        "development.startCommand",
        "development.command",
        "development.dev",
        "development.start",
    ),
    "port": ("development.port", "development.devPort"),
    "readiness": ("development.readiness",),
    "readiness.http.path": ("development.healthCheck", "development.healthPath", "development.readyPath"),
    "readiness.log.pattern": ("development.readyPattern",),
    "readiness.timeoutMs": ("development.readyTimeoutMs", "development.startupTimeoutMs"),
    "env": ("build.env", "build.environment", "development.env", "development.environment"),
    "ports": ("development.ports",),
    "files.required": ("files.required",),
    "files.exclude": ("files.exclude", "files.excluded", "files.ignore"),
}
"""Where each field of today comes from. The first that is there counts; of ``env`` and lists all do."""

_ALL_COUNT = frozenset(("env", "files.required", "files.exclude"))
_WHY: dict[str, str] = {
    "dependencies": "package.json is where packages are named",
    "metadata": "a template has no such field",
    "build": "one image serves all templates, and nothing is built before a start",
    "development": "the tool server takes care of it",
    "files": "a template has no such field",
}


@dataclass(frozen=True)
class Migrated:
    """What came of it."""

    template: dict[str, Any]
    """The content of a template.json that is valid today."""
    remarks: tuple[str, ...]
    """A sentence for everything that was left out or changed."""


def migrated(old: Mapping[str, Any], package: Mapping[str, Any] | None = None) -> Migrated:
    """The flat form of a nested template.json; ``package`` is the package.json beside it.

    Fields that are today's already stay, and come before old ones. Raises InvalidRequest for one that is not
    nested, and for a value that has no place today, such as a port that is no number.

    >>> migrated({"metadata": {"id": "shop", "author": "Ann"}, "development": {"port": 4321}})
    Migrated(template={'id': 'shop', 'port': 4321}, remarks=('metadata.author is left out: a template has no \
such field',))
    """
    if not is_nested(old):
        raise InvalidRequest(f"{TEMPLATE_FILE} is in today's form already: there is nothing to migrate")
    fields = dict(_leaves(old))
    taken = {source: fields.pop(source) for source in _sources() if source in fields}
    new = {key: value for key, value in old.items() if key not in {*NESTED_KEYS, "files"}}
    remarks = [remark for target in MOVES for remark in _moved(new, target, taken)]
    remarks += [f"{path} is left out: {_WHY[path.partition('.')[0]]}" for path in fields]
    remarks += _missing_packages(old.get("dependencies"), package)
    parse_template(msgspec.json.encode(new))
    return Migrated(new, tuple(remarks))


def _moved(new: dict[str, Any], target: str, taken: Mapping[str, Any]) -> list[str]:
    """Put one field in place; a sentence for each that would have been it as well."""
    found = [source for source in MOVES[target] if source in taken]
    used = found if target in _ALL_COUNT else found[:1]
    if _taken(new, target):
        return [f"{source} is left out: {target.partition('.')[0]} is there already" for source in found]
    if used:
        _put(new, target, _together([_plain(target, taken[source]) for source in used]))
    return [f"{source} is left out: {used[0]} says it" for source in found if source not in used]


def _sources() -> Iterator[str]:
    return (source for sources in MOVES.values() for source in sources)


def _leaves(old: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every field of the nested form, by its path. ``dependencies`` is one, whatever is in it."""
    for key in (*NESTED_KEYS, "files"):
        within = old.get(key)
        if key == "dependencies" or (within is not None and not isinstance(within, Mapping)):
            yield from [(key, within)] if within else []
        else:
            yield from ((f"{key}.{name}", value) for name, value in (within or {}).items())


def _taken(new: Mapping[str, Any], target: str) -> bool:
    """Also where a readiness of another kind is, for there is one at most.

    >>> _taken({"readiness": {"port": True}}, "readiness.http.path"), _taken({"files": "x"}, "files.required")
    (True, True)
    """
    above, _, rest = target.partition(".")
    there = new.get(above)
    if rest and there is not None and not isinstance(there, Mapping):
        return True
    kinds = (there or {}).keys() - {"timeoutMs"} if above == "readiness" and rest != "timeoutMs" else set()
    return bool(kinds) or _at(new, target) is not None


def _at(new: Mapping[str, Any], target: str) -> Any:
    within: Any = new
    for name in target.split("."):
        within = within.get(name) if isinstance(within, Mapping) else None
    return within


def _put(new: dict[str, Any], target: str, value: Any) -> None:
    *above, last = target.split(".")
    within = new
    for name in above:
        within = within.setdefault(name, {})
    within[last] = value


def _together(values: list[Any]) -> Any:
    """
    >>> _together([{"A": "1"}, {"B": "2"}]), _together([["a"], ["b", "a"]]), _together([7])
    ({'A': '1', 'B': '2'}, ['a', 'b'], 7)
    """
    if all(isinstance(value, Mapping) for value in values):
        return {name: each for value in values for name, each in value.items()}
    if all(isinstance(value, list) for value in values):
        return list(dict.fromkeys(each for value in values for each in value))
    return values[0]


def _plain(target: str, value: Any) -> Any:
    """As today's field has it.

    >>> _plain("devCommand", "vite --port {{port}}"), _plain("env", {"A": 1})
    ('vite --port {port}', {'A': '1'})
    """
    if target == "devCommand" and isinstance(value, str):
        return value.replace("{{port}}", "{port}").replace("{{host}}", "{host}")
    if target == "env" and isinstance(value, Mapping):
        return {name: each if isinstance(each, str) else _json(each) for name, each in value.items()}
    return value


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _missing_packages(dependencies: Any, package: Mapping[str, Any] | None) -> Iterator[str]:
    """A person has to add them: which version was meant, only the old file knows."""
    if not isinstance(dependencies, Mapping) or package is None:
        return
    there = {name for key in ("dependencies", "devDependencies") for name in package.get(key) or {}}
    for name, version in _flat(dependencies):
        if name not in there:
            yield f"dependencies names {name} {version}, and package.json does not: add it there"


def _flat(dependencies: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Also where they are sorted into groups, as package.json has them."""
    for name, value in dependencies.items():
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield name, value
