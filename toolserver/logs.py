"""The daemon's log: one JSON object a line, on stderr.

What a line tells beside its sentence is given as ``extra={"data": {...}}``: ids, sizes, durations. Never
content, never a token.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import msgspec


class JsonLines(logging.Formatter):
    """``{"time", "level", "logger", "message", ...data}``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:
            # A file's name need not be UTF-8; the line is worth more than the exact name.
            return json.dumps(line, default=str)


def set_up() -> None:
    """Send everything from INFO up to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It warns of subprotocols that it does not know, and one of them may be the token.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
