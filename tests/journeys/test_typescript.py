"""A backend in TypeScript gets its types from the table: the compiler itself is asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from protocol.export.typescript import declaration
from tests.journeys.foreign import run
from tests.journeys.support import NPM_CACHE, tools

pytestmark = [pytest.mark.journey, pytest.mark.timeout(180)]


async def test_the_declaration_compiles_strictly_and_refuses_what_the_daemon_would(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    (tmp_path / "workspace.d.ts").write_text(declaration(), encoding="utf-8")
    shutil.copy(Path(__file__).parent / "consumer.ts", tmp_path)
    npm = ("npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", str(tmp_path))
    await run(*npm, "typescript@5.9.3", path=path, env={"npm_config_cache": str(NPM_CACHE)})
    compiler = tmp_path / "node_modules" / "typescript" / "bin" / "tsc"
    options = ("--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "nodenext")
    await run("node", str(compiler), *options, str(tmp_path / "consumer.ts"), path=path)
