"""aiohttp as a server alone: its package would load its client too, which an idle daemon has no use for.

It is 2 MiB of memory, and some of the start (docs/performance.md). Who does need the client imports
``aiohttp.client`` by name, late, and on a thread.
"""

from __future__ import annotations

import importlib
import re
import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)


def load_server() -> None:
    """Import ``aiohttp.web`` without running the package's own file; the usual way where that is not enough.

    Afterwards ``aiohttp.web`` and other submodules can be imported; names of ``aiohttp`` itself are not.
    """
    if "aiohttp" in sys.modules:
        return
    try:
        sys.modules["aiohttp"] = _bare_package()
        importlib.import_module("aiohttp.web")
    except (AttributeError, ImportError):  # another aiohttp than the one this was written for
        for name in [each for each in sys.modules if each.partition(".")[0] == "aiohttp"]:
            del sys.modules[name]
        importlib.import_module("aiohttp.web")


def _bare_package() -> ModuleType:
    """The package with what its submodules ask it for: where they are, and its version."""
    spec = find_spec("aiohttp")
    if spec is None or spec.origin is None:
        raise ImportError("aiohttp is not installed as files")
    version = _VERSION.search(Path(spec.origin).read_text(encoding="utf-8"))
    if version is None:
        raise ImportError("aiohttp tells its version in another way")
    package = module_from_spec(spec)
    package.__dict__["__version__"] = version[1]
    return package
