"""npm, Vite and its hot updates on the tiers that the other journeys do not run on by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.isolation import probe, reach
from tests.journeys.support import ROUTES
from tests.journeys.test_own_client import edit_reaches_the_page, up, workspace

pytestmark = [pytest.mark.journey, pytest.mark.timeout(420)]

FACTS = probe.look(reach.python_needs(), Path(__file__))
NO_BWRAP = pytest.mark.skipif(bool(FACTS.no_bwrap), reason=FACTS.no_bwrap)
NO_NETWORK = pytest.mark.skipif(bool(FACTS.no_network), reason=FACTS.no_network)
SERVER_TEST = (
    "const s = require('http').createServer((q, r) => r.end('reached'));"
    "s.listen(0, () => fetch('http://127.0.0.1:' + s.address().port).then(r => r.text()).then(console.log)"
    ".finally(() => s.close()))"
)
"""As test suites of web servers do it."""


@pytest.mark.parametrize(
    ("wish", "network"),
    [
        pytest.param("bwrap", "own", marks=[NO_BWRAP, NO_NETWORK]),
        ("auto", "shared"),
    ],
)
async def test_packages_the_dev_server_and_hot_updates_work(
    wish: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKSPACE_ISOLATION", wish)
    monkeypatch.setenv("WORKSPACE_NETWORK", network)
    route = ROUTES[0]
    async with up(route.template) as session:
        await edit_reaches_the_page(session, route, route.old, route.new)
        if network == "own":
            done = await workspace("exec", session["session"], "--", f'node -e "{SERVER_TEST}"')
            assert done.stdout == b"reached\n"
