"""What ``workspace template warm`` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.cli.common import Options, run, tell
from orchestrator.cli.progress import observer
from orchestrator.dependency_store import SharedStore
from orchestrator.templates import template_directories, template_roots
from orchestrator.units import count_text, size_text
from orchestrator.warming import Warmed
from orchestrator.warming import warm as warm_
from protocol.errors import InvalidRequest
from protocol.package_managers import LOCK_FILES


def warm(options: Options, names: Sequence[str], backend: str, target: Path | None) -> list[dict[str, Any]]:
    """Warm them one by one, and say what came of each."""
    wanted = names or _with_lock_files()
    if not wanted:
        raise InvalidRequest("no template here has a lock file; name one that has")
    paths = options.paths()
    store = SharedStore(paths.store_dir if target is None else Path.cwd() / target)
    shown = observer()
    try:
        done = run(warm_(wanted, paths, store, backend, os.environ, Path.cwd(), shown))
    finally:
        shown.close()
    for each in done:
        tell(_line(each))
    return [_as_data(each) for each in done]


def _with_lock_files() -> list[str]:
    found = template_directories(template_roots(Path.cwd()))
    return [
        name for name, path in sorted(found.items()) if any((path / lock).is_file() for lock in LOCK_FILES)
    ]


def _line(done: Warmed) -> str:
    return (
        f"{done.template}: {count_text(done.files, 'file')}, {size_text(done.content_bytes)} in {done.path}"
    )


def _as_data(done: Warmed) -> dict[str, Any]:
    return {
        "template": done.template,
        "key": done.key,
        "files": done.files,
        "contentBytes": done.content_bytes,
        "path": done.path,
    }
