"""What real dev servers say of an edit: heard by the tool server, with no page open."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.client import Client, open_client
from protocol.messages.diagnostics import DevFeedbackAnswer, DevOutcome
from tests.journeys.test_own_client import up

pytestmark = [pytest.mark.journey, pytest.mark.timeout(420)]

_GOOD = {DevOutcome.UPDATE, DevOutcome.FULL_RELOAD, DevOutcome.COMPILED}
_TRIES = 4


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
    def has_place(told: DevFeedbackAnswer) -> bool:
        assert told.outcome not in _GOOD, told
        return any((error.file, error.line) == (module, 2) for error in told.errors)

    async with up(template) as session, open_client(session["toolServerUrl"], session["token"]) as client:
        whole = (await client.read(path=module)).content
        await _told(client, module, broken, has_place)
        await _told(client, module, whole, lambda told: told.outcome in _GOOD)


async def _told(client: Client, module: str, content: str, fits: Callable[[DevFeedbackAnswer], bool]) -> None:
    """Write it until what is told fits: an edit waits for 5 s, and a dev server on a busy machine longer."""
    heard = []
    for tried in range(_TRIES):
        told = (await client.write(path=module, content=content + "\n" * tried, wait_for_dev=True)).dev
        assert told is not None
        if fits(told):
            return
        heard.append(told)
    raise AssertionError(heard)
