"""The log: one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from toolserver.logs import JsonLines


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
