"""What was in a sandbox that ended without being asked, where the backend keeps no files, goes into a save.

The sandbox is started once more as it was, for as long as the save takes. Nothing of it is given up here:
whoever asks ends the sandbox afterwards, and does not where this raises.
"""

from __future__ import annotations

from typing import cast

from orchestrator.backends import Backend, Guest, GuestState, Revives, guest_id
from orchestrator.records import SessionRecord
from orchestrator.save_store import SaveStore
from orchestrator.saving import Saved, keep_save
from protocol.errors import ToolError, Unavailable


async def rescued(driver: Backend, record: SessionRecord, store: SaveStore) -> Saved | None:
    """The save, which is the workspace's newest; None when there is nothing to lose.

    Raises Unavailable, with the way to give it up, when it could not be saved.
    """
    if driver.properties.keeps_files or not record.has_work:
        return None
    wanted = guest_id(record.user_id, record.session_id)
    found = next((guest for guest in await driver.guests() if guest.id == wanted), None)
    if found is None:
        return None
    try:
        guest = await _running(driver, found)
        return await _kept(driver, guest, record, store)
    except (ToolError, OSError) as error:
        raise Unavailable(
            f"{record.session_id} ended without being asked, and what it held since its last save could not "
            f"be saved: {error}; give that up by `workspace down {record.session_id} --remove`, "
            f"which leaves its saves",
            sessionId=record.session_id,
        ) from error


async def _running(driver: Backend, found: Guest) -> Guest:
    if found.state is GuestState.RUNNING:
        return found
    if not driver.properties.revives:
        raise Unavailable(f"the backend {driver.name!r} starts no sandbox a second time")
    return await cast(Revives, driver).revive(found.id)


async def _kept(driver: Backend, guest: Guest, record: SessionRecord, store: SaveStore) -> Saved:
    # Most commands only look, and this takes a third of what one costs to start.
    from orchestrator.client import open_client

    endpoint = driver.endpoint(guest, guest.tool_port)
    async with open_client(endpoint.url, record.token, endpoint.headers) as client:
        return await keep_save(client, store, record, with_history=True)
