"""What a workspace is made from: a template by its name, any directory, or an archive.

A template is a directory in one of the roots, called by its directory's name. Everything is read anew at each
use: a directory dropped in, or a file changed, counts at once, and nothing is registered anywhere.
"""

from __future__ import annotations

import difflib
import enum
import gzip
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from orchestrator.directories import content_of
from protocol.archives import DETECT_BYTES, detect
from protocol.errors import ArchiveInvalid, InvalidRequest, NotFound
from protocol.exclusions import Exclusions
from protocol.messages.archives import ArchiveFormat
from protocol.template_variables import Value
from protocol.templates import TEMPLATE_FILE, Template, parse_template

_MAX_TEMPLATE_FILE_BYTES = 1024 * 1024


_MADE_HERE = (".venv", "__pycache__")
"""What is made for one directory of this machine, and is of no use in a copy of it."""


class SourceKind(enum.Enum):
    """Which of the three it is."""

    TEMPLATE = "template"
    DIRECTORY = "directory"
    ARCHIVE = "archive"


@dataclass(frozen=True)
class Source:
    """What a workspace is made from, and what its template.json says (nothing, when there is none)."""

    kind: SourceKind
    name: str
    """As a person would name it."""
    path: Path
    template: Template
    given: Mapping[str, Value] = field(default_factory=dict)
    """What was chosen for the template's variables; ``substitution.with_values`` has checked it."""

    @property
    def exclusions(self) -> Exclusions:
        """What of a directory stays behind. One's own comes with its history (.git), a template without."""
        if self.kind is not SourceKind.DIRECTORY:
            return Exclusions.default().with_rules(self.template.files.exclude)
        return Exclusions.default().with_rules([*_MADE_HERE, *self.template.files.exclude], [".git"])


def template_roots(cwd: Path) -> list[Path]:
    """Where templates are looked for, in order: ``./templates``, then those that came with this package."""
    package = Path(__file__).parent
    packaged = package / "_templates"
    if not packaged.is_dir() and (package.parent / "pyproject.toml").is_file():
        packaged = package.parent / "templates"  # a checkout, not an installation
    roots = [cwd / "templates", packaged]
    return [root for number, root in enumerate(roots) if root.is_dir() and root not in roots[:number]]


def template_directories(roots: Sequence[Path]) -> dict[str, Path]:
    """Every template's directory by name; of two with one name the first root's counts."""
    found: dict[str, Path] = {}
    for root in roots:
        for entry in sorted(root.iterdir()):
            if entry.is_dir() and not entry.name.startswith("."):
                found.setdefault(entry.name, entry)
    return found


def find_source(wanted: str, roots: Sequence[Path], cwd: Path) -> Source:
    """The template called ``wanted``, else the directory or archive at that path.

    Raises NotFound with the nearest name, InvalidRequest for a bad template.json, ArchiveInvalid for a
    damaged archive: all before anything is started.
    """
    directories = template_directories(roots)
    if not wanted.strip():
        raise InvalidRequest(f"name a template, a directory or an archive; {_known(directories)}")
    if wanted in directories:
        return _directory(SourceKind.TEMPLATE, wanted, directories[wanted])
    path = cwd / Path(wanted).expanduser()
    if path.is_dir():
        return _directory(SourceKind.DIRECTORY, path.resolve().name or str(path), path.resolve())
    if path.is_file():
        return Source(SourceKind.ARCHIVE, path.name, path, template_in_archive(path))
    raise NotFound(f"there is no template, directory or archive {wanted!r}; {_hint(wanted, directories)}")


def read_template(directory: Path) -> Template:
    """The directory's template.json; an empty Template when there is none."""
    file = directory / TEMPLATE_FILE
    try:
        return _parsed(content_of(file, _MAX_TEMPLATE_FILE_BYTES))
    except FileNotFoundError:
        return Template()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", path=str(file)) from error


def template_in_archive(path: Path) -> Template:
    """The template.json that an archive holds at its root; an empty Template when it holds none."""
    try:
        with _tar_of(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.name.removeprefix("./") == TEMPLATE_FILE and member.isfile():
                    content = archive.extractfile(member)
                    return _parsed(content.read(_MAX_TEMPLATE_FILE_BYTES + 1)) if content else Template()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return Template()


@contextmanager
def _tar_of(path: Path) -> Iterator[IO[bytes]]:
    """The plain tar stream in ``path``."""
    import zstandard  # late: only archives need it

    with path.open("rb") as file:
        form = detect(file.read(DETECT_BYTES))
        file.seek(0)
        if form is ArchiveFormat.GZIP:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked  # type: ignore[misc]
        elif form is ArchiveFormat.ZSTD:
            try:
                with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
                    yield stream
            except zstandard.ZstdError as error:
                raise _damaged(path, error) from error
        else:
            yield file


def _damaged(path: Path, error: Exception) -> ArchiveInvalid:
    return ArchiveInvalid(
        f"the archive {path} is damaged ({error}): nothing was started. Use another save, or begin anew "
        "from a template by `workspace up TEMPLATE`",
        path=str(path),
    )


def _directory(kind: SourceKind, name: str, path: Path) -> Source:
    return Source(kind, name, path, read_template(path))


def _parsed(data: bytes) -> Template:
    if len(data) > _MAX_TEMPLATE_FILE_BYTES:
        raise InvalidRequest(f"{TEMPLATE_FILE} is larger than {_MAX_TEMPLATE_FILE_BYTES} bytes")
    return parse_template(data)


def _hint(wanted: str, directories: dict[str, Path]) -> str:
    """
    >>> _hint("asto-minimal", {"astro-minimal": Path()})
    "did you mean 'astro-minimal'?"
    """
    if close := difflib.get_close_matches(wanted, directories, n=1):
        return f"did you mean {close[0]!r}?"
    return _known(directories)


def _known(directories: dict[str, Path]) -> str:
    if not directories:
        return "put one into ./templates, or name a directory"
    return f"templates are {', '.join(sorted(directories))}"
