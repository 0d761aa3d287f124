"""Where this program runs, and what that says of its data directory: three environments, one table.

    phala         PHALA_DEPLOYMENT=true    /app/data
    render        RENDER=true              /app/data, lost at the next deploy unless a disk is mounted there
    development   otherwise                ./data

DATA_DIR wins everywhere. Pure but for ``get_config`` and ``warning``, which ask the disk what is there; no
directory is made and no environment is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.paths import DATA_VARIABLE, DEFAULT_DATA_DIRECTORY, PathManager

DEFAULT_USER = "default"
_TRUE = ("1", "true", "yes")


@dataclass(frozen=True)
class Environment:
    """A kind of place where the host side runs."""

    name: str
    variable: str | None
    """Set to true where it is this one; None: it is this one when it is no other."""
    data_directory: str
    """The data directory that nobody chose. A relative one starts at the working directory."""
    keeps_data: bool = True
    """Files outlive a deploy, wherever they lie."""


PHALA = Environment("phala", "PHALA_DEPLOYMENT", "/app/data")
RENDER = Environment("render", "RENDER", "/app/data", keeps_data=False)
DEVELOPMENT = Environment("development", None, DEFAULT_DATA_DIRECTORY)
ENVIRONMENTS = (PHALA, RENDER, DEVELOPMENT)
"""The first that fits is taken."""


def environment_of(environ: Mapping[str, str]) -> Environment:
    """Which one it is.

    >>> environment_of({"PHALA_DEPLOYMENT": "true"}).name, environment_of({}).name
    ('phala', 'development')
    """
    return next(each for each in ENVIRONMENTS if each.variable is None or _is_true(environ, each.variable))


def _is_true(environ: Mapping[str, str], variable: str) -> bool:
    return environ.get(variable, "").strip().lower() in _TRUE


@dataclass(frozen=True)
class PersistentPathManager(PathManager):
    """All host paths, and the environment that they were chosen for."""

    environment: Environment = DEVELOPMENT

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str], cwd: Path, data_dir: Path | None = None
    ) -> PersistentPathManager:
        """``data_dir`` if given, else DATA_DIR, else the environment's own; relative ones start at ``cwd``.

        >>> PersistentPathManager.from_env({"RENDER": "true"}, Path("/srv")).base_dir.as_posix()
        '/app/data'
        """
        here = environment_of(environ)
        chosen = data_dir or Path(environ.get(DATA_VARIABLE) or here.data_directory)
        return cls(cwd / chosen, here)

    @property
    def is_phala(self) -> bool:
        """A confidential VM keeps the operator out. It keeps no two tenants apart."""
        return self.environment is PHALA

    def session_dir(self, session_id: str, user_id: str | None = None) -> Path:
        """``workspace_dir``, of the default user unless one is given.

        >>> PersistentPathManager(Path("/d")).session_dir("s1").as_posix()
        '/d/workspaces/default/s1'
        """
        return self.workspace_dir(DEFAULT_USER if user_id is None else user_id, session_id)

    def get_config(self) -> dict[str, Any]:
        """What was chosen, and what of it is there, as JSON values. Asks the disk, makes nothing."""
        places = {name: self.base_dir / name for name in ("db", "workspaces", "saves", "logs", "cache")}
        return {
            "environment": self.environment.name,
            "is_phala": self.is_phala,
            "base_dir": str(self.base_dir),
            "code_dir": str(Path(__file__).resolve().parent.parent),
            **{f"{name}_dir": str(place) for name, place in places.items()},
            "exists": {"base": self.base_dir.is_dir()}
            | {name: place.is_dir() for name, place in places.items()},
        }

    def warning(self, is_mount: Callable[[Path], bool] = Path.is_mount) -> str | None:
        """A sentence where the data will be lost at the next deploy; None where it will not."""
        if self.environment.keeps_data or any(map(is_mount, self._disk_candidates())):
            return None
        return (
            f"{self.base_dir} is lost at the next deploy: mount a disk there, or set {DATA_VARIABLE} "
            "to a directory on one"
        )

    def _disk_candidates(self) -> list[Path]:
        """The directory and those above it, but for the root, which is always a mount."""
        return [path for path in (self.base_dir, *self.base_dir.parents) if path != Path(path.anchor)]
