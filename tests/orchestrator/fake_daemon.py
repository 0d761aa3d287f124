"""A program that stands in for the tool server where a test wants one that misbehaves.

Usage: fake_daemon.py [ignore-term] [child] [silent] [die]. ``child`` starts one in a session of its own that
ignores SIGTERM; its id goes to the file ``child`` in the working directory once it does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(words: list[str]) -> None:
    """Do as told, then wait to be ended."""
    Path("environ.json").write_text(json.dumps(dict(os.environ)))
    if "die" in words:
        sys.exit("the root is on fire")
    if "ignore-term" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in words:
        child = [sys.executable, __file__, "ignore-term"]
        process = subprocess.Popen(child, start_new_session=True, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        Path("child").write_text(str(process.pid))
    if "silent" not in words:
        print(f"listening on http://127.0.0.1:{os.environ['TOOL_SERVER_PORT']}", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1:])
