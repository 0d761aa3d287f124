"""What can be told about a template before anybody starts it: errors that would stop it, warnings that smell.

One rule, one function, one finding each. Reads the directory, changes nothing, follows no link.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from orchestrator.directories import content_of
from orchestrator.paths import is_plain_name
from orchestrator.substitution import listed_placeholders
from orchestrator.templates import Source, SourceKind, read_template
from protocol.errors import InvalidRequest, ToolError
from protocol.limits import MIB
from protocol.package_managers import LOCK_FILES, MANAGERS
from protocol.paths import workspace_path
from protocol.readiness import readiness_problems
from protocol.templates import (
    MAX_PACKAGE_BYTES,
    PACKAGE_FILE,
    TEMPLATE_FILE,
    Template,
    dev_command,
    package_object,
)

Level = Literal["error", "warning"]

MANY_FILES = 2_000
"""A template above this is a copy of a project. A gut feeling: the largest one here has some forty."""
MANY_BYTES = 20 * MIB
"""Sent at every start. A gut feeling as well."""
_CONTAINER_FILES = re.compile(
    r"(Dockerfile|Containerfile)(\..*)?|.*\.[Dd]ockerfile|(docker-)?compose.*\.ya?ml"
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks so. The message names the fix."""

    level: Level
    path: str
    message: str
    kind: str = ""
    """The rule that found it: of one kind there may be hundreds."""


@dataclass(frozen=True)
class Entry:
    """One name in a template, as it would be packed."""

    path: str
    mode: int
    size: int
    target: str | None = None
    """Where a link points, as written."""


@dataclass(frozen=True)
class Report:
    """A template, and what was found."""

    name: str
    path: Path
    template: Template | None
    """None when template.json cannot be read."""
    findings: list[Finding]
    files: int = 0
    content_bytes: int = 0

    def ok(self, strict: bool = False) -> bool:
        """Whether it may be used; ``strict`` counts warnings too."""
        return not any(strict or finding.level == "error" for finding in self.findings)


def check_template(name: str, directory: Path) -> Report:
    """Everything there is to say about the template in ``directory``."""
    try:
        template = read_template(directory)
        source = Source(SourceKind.TEMPLATE, name, directory, template)
        entries = sorted(_entries(source), key=lambda entry: entry.path)
    except ToolError as error:
        message = error.message.removeprefix(f"{TEMPLATE_FILE}: ")
        return Report(name, directory, None, [Finding("error", TEMPLATE_FILE, message)])
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        return Report(name, directory, None, [Finding("error", str(error.filename or directory), message)])
    view = View(name, directory, template, {entry.path: entry for entry in entries})
    findings = [replace(finding, kind=rule.__name__) for rule in RULES for finding in rule(view)]
    files = [entry for entry in entries if stat.S_ISREG(entry.mode)]
    return Report(name, directory, template, findings, len(files), sum(entry.size for entry in files))


@dataclass(frozen=True)
class View:
    """What a rule looks at."""

    name: str
    directory: Path
    template: Template
    entries: dict[str, Entry]

    def has(self, path: str) -> bool:
        """Whether it would be packed."""
        return str(PurePosixPath(path)) in self.entries

    def package(self) -> dict[str, Any] | None:
        """package.json, or None when there is none; ValueError when it is no JSON object."""
        if not self.has(PACKAGE_FILE):
            return None
        try:
            return package_object(content_of(self.directory / PACKAGE_FILE, MAX_PACKAGE_BYTES))
        except OSError as error:
            raise ValueError(error.strerror) from None


Rule = Callable[[View], Iterator[Finding]]


def _entries(source: Source) -> Iterator[Entry]:
    """What would be packed, parents before children."""
    exclusions = source.exclusions
    for above, directories, files in os.walk(source.path):
        relative = PurePosixPath(Path(above).relative_to(source.path).as_posix())
        kept = [name for name in directories if not exclusions.excludes_entry(str(relative / name), True)]
        directories[:] = kept
        for name in (*kept, *files):
            path = str(relative / name)
            if name in kept or not exclusions.excludes_entry(path):
                yield _entry(Path(above) / name, path)


def _entry(file: Path, path: str) -> Entry:
    found = file.lstat()
    target = str(file.readlink()) if stat.S_ISLNK(found.st_mode) else None
    return Entry(path, found.st_mode, found.st_size, target)


def required_files_are_there(view: View) -> Iterator[Finding]:
    """``files.required``."""
    for path in view.template.files.required:
        if not view.has(path):
            yield Finding("error", path, "files.required names it, and it is not there (or is excluded)")


def links_stay_inside(view: View) -> Iterator[Finding]:
    """An archive with a link that leaves is refused as a whole."""
    for entry in view.entries.values():
        if entry.target is not None and leaves(entry.path, entry.target):
            yield Finding("error", entry.path, f"links to {entry.target!r}, outside the template: copy it in")


def leaves(path: str, target: str) -> bool:
    """Whether a link at ``path`` points out of the tree that it is in.

    >>> leaves("a/b", "../c"), leaves("a/b", "../../c"), leaves("b", "/etc/passwd")
    (False, True, True)
    """
    joined = os.path.normpath(PurePosixPath(path).parent / target)
    return target.startswith("/") or joined == ".." or joined.startswith("../")


def only_files_directories_and_links(view: View) -> Iterator[Finding]:
    """An archive holds nothing else."""
    for entry in view.entries.values():
        if not (stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode) or stat.S_ISLNK(entry.mode)):
            yield Finding("error", entry.path, "is a device, socket or fifo: remove it")


def no_container_files(view: View) -> Iterator[Finding]:
    """One image serves every template."""
    for path in view.entries:
        if _CONTAINER_FILES.fullmatch(path.rpartition("/")[2]):
            yield Finding("warning", path, "has no effect: one image serves all templates; remove it")


def package_file_parses(view: View) -> Iterator[Finding]:
    """Else the package manager says so, much later."""
    try:
        view.package()
    except ValueError as error:
        yield Finding("error", PACKAGE_FILE, f"is not valid: {error}")


def something_starts(view: View) -> Iterator[Finding]:
    """A dev server, by template.json, by a script, or by an index.html."""
    try:
        found = view.template.dev_command or dev_command(view.package(), view.entries.keys())
    except (ValueError, InvalidRequest):  # said by another check
        return
    if view.template.dev_command is None and found is None:
        message = "nothing to start: add devCommand, a 'dev' script in package.json, or an index.html"
        yield Finding("warning", TEMPLATE_FILE, message)


def dev_command_takes_the_port(view: View) -> Iterator[Finding]:
    """Two workspaces on one host cannot have the same."""
    command = view.template.dev_command
    if command and "{port}" not in command and "PORT" not in command:
        yield Finding("warning", TEMPLATE_FILE, "devCommand has no {port}: it cannot be given another port")


def ports_are_ports(view: View) -> Iterator[Finding]:
    """1024 and above: no workspace runs as root."""
    ports = [view.template.port, *(port.port for port in view.template.ports)]
    for port in ports:
        if port is not None and not 1024 <= port <= 65535:
            yield Finding("error", TEMPLATE_FILE, f"port {port} is not from 1024 to 65535")


def readiness_can_be_waited_for(view: View) -> Iterator[Finding]:
    """The rules of ``dev_start``, before anything is started."""
    readiness = view.template.readiness
    for field, problem in readiness_problems(readiness):
        yield Finding("error", TEMPLATE_FILE, f"{field} {problem}")
    if readiness.file is not None:
        try:
            workspace_path(readiness.file.path)
        except ToolError as error:
            yield Finding("error", TEMPLATE_FILE, f"readiness.file.path: {error.message}")


def restart_patterns_parse(view: View) -> Iterator[Finding]:
    """``restartOn``, as .gitignore has them."""
    from pathspec import GitIgnoreSpec

    for pattern in view.template.restart_on or ():
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError as error:
            yield Finding("error", TEMPLATE_FILE, f"restartOn holds {pattern!r}: {error}")


def id_is_the_directory_name(view: View) -> Iterator[Finding]:
    """A template is called by its directory's name."""
    if view.template.id not in (None, view.name) and is_plain_name(str(view.template.id)):
        message = f"id is {view.template.id!r}, but the template is called by its directory: {view.name!r}"
        yield Finding("warning", TEMPLATE_FILE, message)


def id_is_a_plain_name(view: View) -> Iterator[Finding]:
    """It becomes a part of paths and addresses."""
    if view.template.id is not None and not is_plain_name(view.template.id):
        message = f"id {view.template.id!r} is no plain name: use 1 to 128 of A-Z a-z 0-9 . _ -, no dot first"
        yield Finding("error", TEMPLATE_FILE, message)


def package_manager_is_known(view: View) -> Iterator[Finding]:
    """``packageManager``, wherever it stands."""
    try:
        package = view.package() or {}
    except ValueError:
        return
    for path, named in (
        (TEMPLATE_FILE, view.template.package_manager),
        (PACKAGE_FILE, package.get("packageManager")),
    ):
        if named is not None and str(named).partition("@")[0] not in MANAGERS:
            yield Finding("error", path, f"packageManager {named!r} is none of {', '.join(MANAGERS)}")


def lock_file_is_there(view: View) -> Iterator[Finding]:
    """Without one, every start may install something else."""
    if view.has(PACKAGE_FILE) and not any(view.has(lock) for lock in LOCK_FILES):
        yield Finding(
            "warning", PACKAGE_FILE, "there is no lock file: run the package manager's install once"
        )


def substituted_files_are_there(view: View) -> Iterator[Finding]:
    """``substitute``: plain files that are packed."""
    for path in view.template.substitute:
        entry = view.entries.get(str(PurePosixPath(path)))
        if entry is None or not stat.S_ISREG(entry.mode):
            yield Finding("error", path, "substitute lists it, and it is no plain file (or is excluded)")


def variables_are_used(view: View) -> Iterator[Finding]:
    """One that stands nowhere does nothing; one that is misspelt stays on the page."""
    try:
        found = listed_placeholders(view.directory, view.template)
    except ToolError as error:
        yield Finding("error", TEMPLATE_FILE, error.message)
        return
    names = view.template.variables.keys()
    for name in sorted(names - set().union(*found.values())):
        yield Finding("warning", TEMPLATE_FILE, f"variable {name!r} is in none of the files of 'substitute'")
    for path, placeholders in found.items():
        for name in sorted(placeholders - names):
            if close := difflib.get_close_matches(name, names, n=1):
                yield Finding("warning", path, f"'{{{{{name}}}}}' is no variable; did you mean {close[0]!r}?")


def it_is_small(view: View) -> Iterator[Finding]:
    """It is sent at every start."""
    files = [entry for entry in view.entries.values() if stat.S_ISREG(entry.mode)]
    size = sum(entry.size for entry in files)
    if not files:
        yield Finding("error", ".", "is empty: put the project's files here")
    if len(files) > MANY_FILES or size > MANY_BYTES:
        found = f"{len(files)} files, {size / MIB:.1f} MiB"
        yield Finding("warning", ".", f"is large ({found}): leave out what can be made, by files.exclude")


RULES: tuple[Rule, ...] = (
    required_files_are_there,
    links_stay_inside,
    only_files_directories_and_links,
    no_container_files,
    package_file_parses,
    something_starts,
    dev_command_takes_the_port,
    ports_are_ports,
    readiness_can_be_waited_for,
    restart_patterns_parse,
    id_is_a_plain_name,
    id_is_the_directory_name,
    package_manager_is_known,
    lock_file_is_there,
    substituted_files_are_there,
    variables_are_used,
    it_is_small,
)
