"""The image's document, typed in: every shell block runs as it stands, but for the ports."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.image.support import REPOSITORY
from tests.ports import free_port

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(600)
def test_every_shell_block_of_the_document_runs() -> None:
    text = (REPOSITORY / "docs" / "image.md").read_text()
    lines = "".join(BLOCK.findall(text)).replace("make image ", ": make image, which the tests did ")
    for port in ("3001", "4321"):
        free = free_port()
        lines = lines.replace(f"127.0.0.1:{port}:", f"127.0.0.1:{free}:").replace(
            f":{port}/v1", f":{free}/v1"
        )
    lines = lines.replace("curl -sS", "curl -sS --fail-with-body")
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\ntrap 'docker rm -f demo narrow >/dev/null 2>&1' EXIT\n{lines}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "token: " in done.stdout
    assert '"path":"src/style.css"' in done.stdout
    assert "v24." in done.stdout
