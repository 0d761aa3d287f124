"""The documents' commands are typed in, line by line, and must work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.journeys.foreign import TOKEN, Daemon, daemon, run
from tests.journeys.support import REPOSITORY

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: str) -> list[str]:
    """The shell blocks of a document."""
    return _BLOCK.findall((REPOSITORY / document).read_text(encoding="utf-8"))


async def typed(block: str, server: Daemon) -> str:
    """What a shell prints for a block; each line must succeed, and curl must not be refused."""
    lines = block.replace("curl -sS", "curl -sS --fail-with-body")
    script = f"set -eu\nexport URL={server.url} TOKEN={TOKEN}\n{lines}"
    return (await run("bash", "-c", script)).decode()


@pytest.mark.timeout(300)
async def test_every_shell_block_of_the_api_document_runs(tmp_path: Path) -> None:
    async with daemon(tmp_path / "daemon") as server:
        told = [await typed(block, server) for block in blocks("docs/api.md")]
    for piece in (
        '"matchCount":1',
        '"stdout":"2 notes/todo.md',
        '"stdout":"hello Ann',
        '\n{"result":',
        "\n./index.html\n",
        '"state":"ready"',
        '"status":"healthy"',
        '"path":"notes/host.txt"',
    ):
        assert any(piece in each for each in told), piece


async def test_the_readme_curl_lines_run_on_the_template_they_are_for(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("README.md") if "curl" in block]
    async with daemon(tmp_path / "daemon") as server:
        archive = tmp_path / "template.tar.gz"
        template = REPOSITORY / "templates" / "astro-minimal"
        await run("tar", "-czf", str(archive), "--exclude=node_modules", "-C", str(template), ".")
        await server.curl("/v1/archive", "-T", str(archive))
        lines = block.replace("http://127.0.0.1:3001", server.url).replace("curl ", "curl -sS ")
        told = await typed(lines, server)
    assert '"replacements":1' in told


@pytest.mark.parametrize(
    "document", ["README.md", "ARCHITECTURE.md", "docs/api.md", "docs/templates.md", "docs/tokens.md"]
)
def test_every_link_between_documents_leads_somewhere(document: str) -> None:
    path = REPOSITORY / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
