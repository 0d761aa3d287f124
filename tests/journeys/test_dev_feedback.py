"""What real dev servers say of an edit: heard by the tool server, with no page open."""

from __future__ import annotations

import pytest

from orchestrator.client import open_client
from protocol.messages.diagnostics import DevOutcome
from tests.journeys.test_own_client import up

pytestmark = [pytest.mark.journey, pytest.mark.timeout(420)]


@pytest.mark.parametrize(
    ("template", "module", "broken"),
    [
        ("vite-vanilla", "src/main.js", '// one\nimport "./missing.js";\n'),
        ("astro-minimal", "src/pages/index.astro", "---\nconst broken = ;\n---\n<p>x</p>\n"),
    ],
)
async def test_an_edit_that_does_not_compile_is_told_with_its_place(
    template: str, module: str, broken: str
) -> None:
    async with up(template) as session, open_client(session["toolServerUrl"], session["token"]) as client:
        whole = (await client.read(path=module)).content
        told = (await client.write(path=module, content=broken, wait_for_dev=True)).dev
        assert told is not None
        assert told.outcome is DevOutcome.ERROR, told
        assert told.errors[0].file == module, told
        assert told.errors[0].line == 2, told
        mended = (await client.write(path=module, content=whole, wait_for_dev=True)).dev
        assert mended is not None
        assert mended.outcome in {DevOutcome.UPDATE, DevOutcome.FULL_RELOAD, DevOutcome.COMPILED}, mended
