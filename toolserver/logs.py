"""The daemon's log: one JSON object a line, on stderr.

What a line tells beside its sentence is given as ``extra={"data": {...}}``: ids, sizes, durations. Never
content, never a token. Lines are made and written on a thread, so that no answer waits for its line, and
nobody at all for whoever reads the log, or does not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import msgspec

_TOGETHER_SECONDS = 0.02
"""Lines of this time are written together, after the answers that they tell of. As much is lost by a KILL.
Each time takes the interpreter from the event loop for as long as the lines take to be made."""
_MAX_WAITING_LINES = 10_000
"""Some 10 MB, and some seconds of all that the daemon can do. A gut feeling."""
_PATIENCE_SECONDS = 1.0
"""At the daemon's end, for a log that nobody reads."""


class JsonLines(logging.Formatter):
    """``{"time", "level", "logger", "message", ...data}``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        encoded = getattr(record, "encoded", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(getattr(record, "data", {}) if encoded is None else {}),
        }
        if encoded is not None:
            return f"{msgspec.json.encode(line).decode()[:-1]},{encoded.decode()[1:]}"
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:
            # A file's name need not be UTF-8; the line is worth more than the exact name.
            return json.dumps(line, default=str)


class Together(logging.StreamHandler[TextIO]):
    """Writes when it is flushed, many lines in one go: each write lets go of the interpreter and asks for it
    back, which holds up the event loop twice."""

    def emit(self, record: logging.LogRecord) -> None:
        """Put the line to those that wait."""
        try:
            self.stream.write(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write them. Where nobody reads the log any more there is nobody to tell of that."""
        with contextlib.suppress(OSError):
            super().flush()


class Behind(logging.Handler):
    """Hands lines to ``handler`` on a thread, many at a time. Those past a bound are dropped, and counted."""

    def __init__(self, handler: logging.Handler, at_most: int = _MAX_WAITING_LINES) -> None:
        super().__init__()
        self._handler = handler
        self._at_most = at_most
        self._waiting: deque[logging.LogRecord] = deque()
        self._dropped = self.dropped_in_all = 0
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take the line; never waits."""
        if len(self._waiting) >= self._at_most:
            self._dropped += 1
            self.dropped_in_all += 1
            return
        self._waiting.append(record)
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Write what waits, here and now, unless the reader of the log holds up the thread for too long."""
        if self._writing.acquire(timeout=_PATIENCE_SECONDS):
            try:
                self._write_waiting()
            finally:
                self._writing.release()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._ended = True
        self._wake.set()
        self.flush()
        super().close()

    def _run(self) -> None:
        while not self._ended:
            self._wake.wait()
            time.sleep(_TOGETHER_SECONDS)
            self._wake.clear()
            with self._writing:
                self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting:
            self._handler.handle(self._waiting.popleft())
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            text = "%d lines were dropped: whoever reads this log is too slow"
            self._handler.handle(
                logging.LogRecord("toolserver.logs", logging.WARNING, __file__, 0, text, (dropped,), None)
            )
        self._handler.flush()


def set_up() -> None:
    """Send everything from INFO up to stderr as JSON."""
    direct = Together(_stderr())
    direct.setFormatter(JsonLines())
    # What no line tells need not be looked up for each: the caller's file, thread and process.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Closed, and so written to its end, by the interpreter when it stops.
    logging.basicConfig(level=logging.INFO, handlers=[Behind(direct)], force=True)
    # It warns of subprotocols that it does not know, and one of them may be the token.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)


def _stderr() -> TextIO:
    """One of our own, for Python's writes at the end of every line; nowhere, where there is none."""
    if sys.stderr is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    return open(sys.stderr.fileno(), "w", encoding="utf-8", closefd=False)


def dropped_lines() -> int:
    """Since the start."""
    return sum(each.dropped_in_all for each in logging.getLogger().handlers if isinstance(each, Behind))


def flush() -> None:
    """Have every line written that was told so far."""
    for handler in logging.getLogger().handlers:
        handler.flush()
