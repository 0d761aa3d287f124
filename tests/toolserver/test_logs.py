"""The log: one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

from toolserver.logs import Behind, JsonLines


def line_of(message: str, *args: object, data: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord(
        "toolserver.x", logging.WARNING, __file__, 1, message, args, more.get("exc_info")
    )
    if data is not None:
        record.data = data
    text = JsonLines().format(record)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_has_time_level_logger_and_message() -> None:
    line = line_of("a %s\nof two lines", "sentence")
    assert line["message"] == "a sentence\nof two lines"
    assert (line["level"], line["logger"]) == ("warning", "toolserver.x")
    assert line["time"].endswith("+00:00")


def test_data_stands_beside_the_sentence() -> None:
    assert line_of("x", data={"requestId": "r1", "path": Path("/a")})["requestId"] == "r1"


def test_what_json_does_not_know_is_told_as_text() -> None:
    assert line_of("x", data={"path": Path("/a")})["path"] == "/a"


def test_text_that_is_not_unicode_does_not_lose_the_line() -> None:
    assert line_of("cannot read %s", "a\udcff")["message"].startswith("cannot read a")
    assert line_of("x", data={"path": "a\udcff"})["level"] == "warning"


def test_a_traceback_is_one_field() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        line = line_of("failed", exc_info=sys.exc_info())
    assert line["traceback"].endswith("ValueError: wrong")


class Kept(logging.Handler):
    """Keeps sentences, as slowly as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.may_write.wait(30)
        self.lines.append(record.getMessage())


def record_of(message: str) -> logging.LogRecord:
    return logging.LogRecord("toolserver.x", logging.INFO, __file__, 1, message, (), None)


def test_lines_keep_their_order_and_none_is_lost_at_the_end() -> None:
    slow = Kept()
    behind = Behind(slow)
    for number in range(100):
        behind.handle(record_of(str(number)))
    slow.may_write.set()
    behind.close()
    assert slow.lines == [str(number) for number in range(100)]


def test_a_log_that_nobody_reads_delays_nobody_and_tells_what_it_dropped() -> None:
    slow = Kept()
    behind = Behind(slow, at_most=3)
    for number in range(10):
        behind.handle(record_of(str(number)))
    slow.may_write.set()
    behind.close()
    dropped = 10 - (len(slow.lines) - 1)
    assert slow.lines[:3] == ["0", "1", "2"]
    assert slow.lines[-1] == f"{dropped} lines were dropped: whoever reads this log is too slow"
