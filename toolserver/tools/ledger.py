"""The one way in for every operation, through any door: what it has to pass, and what is noted of it.

A request has to be within the rate, within the number that may be under way, and within what its token is
good for. When it has ended, one line says who asked for what and how it went: it goes to the log, to
``audit`` and, as numbers, to ``/metrics``. Lines hold paths and names, never content, tokens or whole
commands (``subject``).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakSet

import msgspec

from protocol.errors import Busy, Cancelled, Internal, ToolError, Unauthorized
from protocol.limits import Limits
from protocol.operations import Operation
from toolserver.system import caller
from toolserver.system.confinement import confined
from toolserver.system.lag import Lag
from toolserver.tools.admission import Admission, Door, refuse_beyond, refuse_over
from toolserver.tools.auditing import Auditing
from toolserver.tools.figures import Figures
from toolserver.tools.rate import Rate
from toolserver.tools.subject import subject
from toolserver.tools.together import Together
from toolserver.tools.tokens import REVOKED

if TYPE_CHECKING:
    from toolserver.tools.call import Call

T = TypeVar("T")
NOBODY = "nobody"
"""Who was turned away: whatever name a bad token has is not believed."""

log = logging.getLogger("toolserver.operations")


class _Ended(NamedTuple):
    at: float
    """Seconds since 1970."""
    name: str
    call: Call
    outcome: str
    seconds: float
    about: object
    answer: object


class Ledger:
    """Of one daemon; for its event loop alone."""

    def __init__(
        self,
        limits: Limits = Limits(),
        auditing: Auditing | None = None,
        lag: Lag | None = None,
        is_revoked: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """``is_revoked``: whether the token of that id is, as ``Tokens`` knows it, where there are any."""
        self._figures = Figures()
        self._later: Together[_Ended] = Together(self._note)
        self.under_way = 0
        self._of_each: Counter[str] = Counter()
        """Operations under way, by user."""
        self._limits = limits
        self._rate = Rate(limits)
        self.auditing = auditing or Auditing(limits)
        self.auditing.before_a_look = self.settle
        self.lag = lag or Lag()
        self._is_revoked = is_revoked
        self._counted: WeakSet[ToolError] = WeakSet()

    @property
    def figures(self) -> Figures:
        """Of all that has ended so far."""
        self.settle()
        return self._figures

    def settle(self) -> None:
        """Note all that has ended so far."""
        self._later.finish()

    async def through(
        self, what: Operation | Door, call: Call, work: Callable[[], Awaitable[T]], about: object = None
    ) -> T:
        """``work``, if it may be; raises ToolError only, but for a cancellation.

        ``about`` is the request, or the path that is asked for where there is none.
        """
        begun = time.monotonic()
        try:
            self.admit(call, begun)
        except ToolError as error:
            self.refused(what.name, error, call.request_id, call.admission.who)
            raise
        outcome, answer = "ok", None
        before = caller.begin(call.admission.who)
        self._begin(call.admission.who)
        try:
            refuse_beyond(call.admission, what)
            with confined(call.admission.path):
                answer = await work()
            return answer
        except ToolError as error:
            outcome = error.code
            self.hit(error)
            raise
        except asyncio.CancelledError:
            outcome = Cancelled.code
            raise
        except Exception as error:
            told = self._of_the_system(error) or failed(what.name, call.request_id)
            outcome = told.code
            self.hit(told)
            raise told from error
        finally:
            caller.end(before)
            self._end(call.admission.who)
            self.note_soon(what.name, call, outcome, begun, about, answer)

    def _begin(self, who: str) -> None:
        self.under_way += 1
        self._of_each[who] += 1

    def _end(self, who: str) -> None:
        self.under_way -= 1
        self._of_each[who] -= 1
        if not self._of_each[who]:
            del self._of_each[who]

    def admit(self, call: Call, now: float) -> None:
        """Raise RateLimited, Busy, or Unauthorized when the token is over meanwhile; or let it in."""
        refuse_over(call.admission, time.time())
        # A body may have taken its time since the token was believed.
        if call.admission.token_id is not None and self._is_revoked(call.admission.token_id):
            raise Unauthorized(REVOKED)
        limits = self._limits
        if self.under_way >= limits.max_operations_in_all:
            raise _too_many("all", "maxOperationsInAll", limits.max_operations_in_all)
        if self._of_each.get(call.admission.who, 0) >= limits.max_operations:
            raise _too_many("this user's", "maxOperations", limits.max_operations)
        self.charge(call.admission, now)

    def charge(self, admission: Admission, now: float) -> None:
        """Count something that was asked, also what is no request; raises RateLimited."""
        self._rate.take(admission.token_id or admission.who, now)

    def note_soon(
        self, name: str, call: Call, outcome: str, begun: float, about: object, answer: object = None
    ) -> None:
        """Note it in the next turn of the loop: the answer goes out first, and what it has is known then."""
        ended = _Ended(time.time(), name, call, outcome, time.monotonic() - begun, about, answer)
        asyncio.get_running_loop().call_soon(self._note_in_turn, ended)

    def note_later(self, name: str, call: Call, begun: float, about: object) -> None:
        """Note together with others one that went well, and whose request is small: it is kept until then."""
        self._later.put(_Ended(time.time(), name, call, "ok", time.monotonic() - begun, about, None))

    def refused(
        self, name: str, error: ToolError, request_id: str, who: str = NOBODY, peer: str | None = None
    ) -> None:
        """Note who was turned away. Of a flood of them only some get a line, and the others are counted."""
        self.hit(error)
        self._figures.outcomes[name, error.code] += 1
        line = {"requestId": request_id, "operation": name, "outcome": error.code, "who": who}
        if peer:
            line["peer"] = peer
        if self.auditing.may_list(line):
            self.settle()
            self._tell(time.time(), line)

    def hit(self, error: ToolError) -> None:
        """Count the limit that an error names, once however often the error passes by."""
        limit = error.details.get("limit")
        if isinstance(limit, str) and error not in self._counted:
            self._counted.add(error)
            self._figures.limits[limit] += 1

    def _note_in_turn(self, what: _Ended) -> None:
        self.settle()
        self._note(what)

    def _note(self, what: _Ended) -> None:
        call, admission = what.call, what.call.admission
        line: dict[str, Any] = {
            "requestId": call.request_id,
            "operation": what.name,
            "outcome": what.outcome,
            "durationMs": round(what.seconds * 1000, 3),
            "who": admission.who,
            "bytesIn": call.received,
            "bytesOut": call.sent,
        }
        if admission.token_id is not None:
            line["tokenId"] = admission.token_id
        subject(line, what.name, what.about, what.answer)
        self._tell(what.at, line)
        self._figures.add(what.name, what.outcome, what.seconds, call.received, call.sent)

    def _tell(self, at: float, line: dict[str, Any]) -> None:
        """To the log and to the audit: put into bytes once, for both."""
        encoded = msgspec.json.encode(line)
        if log.isEnabledFor(logging.INFO):
            log.handle(_Line(at, line, encoded))
        self.auditing.note(at, encoded)

    def _of_the_system(self, error: Exception) -> ToolError | None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return Busy(
                "too many files are open at the moment; try again",
                limit="maxOpenFiles",
                value=self._limits.max_open_files,
            )
        return None


def _too_many(whose: str, limit: str, value: int) -> Busy:
    message = f"{value} operations are under way, the limit of {whose}; wait for one of them"
    return Busy(message, limit=limit, value=value)


def failed(name: str, request_id: str) -> Internal:
    """What a caller is told of a fault of ours; called where it is caught, so that the log gets all."""
    log.exception("failed", extra={"data": {"requestId": request_id, "operation": name}})
    return Internal(f"{name} failed for a reason of our own; see request {request_id} in the log")


_SAME = vars(logging.LogRecord(log.name, logging.INFO, __file__, 0, "operation", (), None))
"""Of all records of operations."""


class _Line(logging.LogRecord):
    """The log's record of an operation, made in a fifth of the time."""

    def __init__(self, at: float, line: dict[str, Any], encoded: bytes) -> None:
        # ``encoded`` is ``data`` as JSON, for whoever writes that.
        self.__dict__ = {**_SAME, "created": at, "msecs": at % 1 * 1000, "data": line, "encoded": encoded}
