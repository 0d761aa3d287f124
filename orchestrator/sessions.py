"""Sessions: begun, found again, ended, saved. What a session runs on is its backend's business.

The registry is written before a sandbox is made and after it is gone, so a crash at any point leaves a record
by which the rest is found and cleaned up (``reconcile``). Every move is one that ``session_states`` has, and
made under a lease, so two orchestrators never pull at one session. Files outlive a session unless somebody
says that they may go.
"""

from __future__ import annotations

from orchestrator.leasing import to_the_end
from orchestrator.session_ending import Ending
from orchestrator.session_granting import Granting
from orchestrator.session_starting import Starting
from orchestrator.session_values import Ended, LastLook, PortWishes, PutInOrder, Seen

__all__ = ["Ended", "LastLook", "PortWishes", "PutInOrder", "Seen", "Sessions"]


class Sessions(Starting, Ending, Granting):
    """All sessions of one data directory."""

    async def __aenter__(self) -> Sessions:
        """For an orchestrator that stays: puts in order what others left, and keeps the registry open."""
        try:
            await to_the_end(lambda: self._stays.enter_context(self._records.kept_open()))
            await self.reconcile()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leasing.close()
        self._stays.close()
