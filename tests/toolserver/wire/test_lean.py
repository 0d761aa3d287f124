"""aiohttp's server without its client, and what becomes of it with another aiohttp."""

from __future__ import annotations

import subprocess
import sys

import aiohttp

_SHOWN = """
import importlib, sys
from toolserver.wire import lean
{before}
lean.load_server()
import aiohttp.http
print("aiohttp.client" in sys.modules, aiohttp.http.SERVER_SOFTWARE)
print(importlib.import_module("aiohttp.client").ClientSession.__name__)
"""


def _shown(before: str = "") -> list[str]:
    code = _SHOWN.format(before=before)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return run.stdout.splitlines()


def test_the_server_comes_without_the_client_and_the_client_by_its_name() -> None:
    assert _shown() == [f"False {aiohttp.http.SERVER_SOFTWARE}", "ClientSession"]


def test_an_aiohttp_that_is_not_as_expected_is_loaded_whole() -> None:
    odd = "import re; lean._VERSION = re.compile('no such line')"
    assert _shown(odd) == [f"True {aiohttp.http.SERVER_SOFTWARE}", "ClientSession"]


def test_an_aiohttp_whose_server_needs_the_whole_package_is_loaded_again() -> None:
    # What runs in the place of its file refuses the first import of a submodule, and that one alone.
    odd = """
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp.web_runner":
            sys.meta_path.remove(self)
            raise ImportError(name)
sys.meta_path.insert(0, Refusing())
"""
    assert _shown(odd) == [f"True {aiohttp.http.SERVER_SOFTWARE}", "ClientSession"]
