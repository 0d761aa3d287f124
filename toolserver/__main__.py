"""``toolserver``: environ -> Config -> run. The only reader of os.environ."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from toolserver import logs
from toolserver.config import Config, ConfigError
from toolserver.system import inherited, tree
from toolserver.system.separation import SeparationMissing

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; exit code 2 for a wrong configuration, 1 when the port is taken."""
    try:
        config = Config.read(os.environ, sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        for problem in error.problems:
            print(f"toolserver: {problem}", file=sys.stderr)
        sys.exit(2)
    # Read, so no longer needed there: a command that runs as root could look it up.
    tree.erase_variable("TOOL_SERVER_TOKEN")
    inherited.hand_no_signals_on()
    logs.set_up()
    # Loaded only now: a wrong variable is told at once, not after a quarter of a second of imports.
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(config))
    except SeparationMissing as error:
        logs.flush()
        print(f"toolserver: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # The sentence is the last line, whatever the log still has to say.
        logs.flush()
        print(
            f"toolserver: cannot serve {config.root} on {config.host}:{config.port}: {error}", file=sys.stderr
        )
        sys.exit(1)


def prepare() -> None:
    """Load all that a tool server needs, for a process that becomes many by forking.

    Begins nothing, starts no thread and reads no setting: ``main`` does so in each of them.
    """
    _load_app()
    import uvloop  # noqa: F401

    from toolserver.tools.tokens import load_verifier

    # Loaded late otherwise, and nearly every workspace comes to need them: dev server, content, write, token.
    for name in ("aiohttp.client", "isal.igzip_lib", "isal.isal_zlib", "pathspec", "sqlite3", "zstandard"):
        importlib.import_module(name)
    load_verifier()


async def _run(config: Config) -> None:
    environ = dict(os.environ)  # as it was given: commands inherit from it
    # Likewise: aiohttp is most of the start.
    _load_app()
    from toolserver.app import open_app

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    try:
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(open_app(config, environ, _tool_path()))
            _settle_memory()
            logs.flush()
            print(f"listening on {running.url}", flush=True)
            await stop.wait()
    finally:
        # A second signal must not turn a stop that went well into a death. The loop's own way to handle
        # signals would restore the default, which is to die, while the interpreter is still tidying up.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _load_app() -> None:
    """Import everything, for start-up and memory without what a tool server has no use for.

    Of aiohttp its client. Should that be loaded later, for the dev server's channel on loopback, then without
    all the certificates that the system trusts: they are a quarter of its import, and 2 MB. That variables
    say so from now on is for this process alone. Lists that freeze are Python's own: they hold a few
    middlewares and signals; in C++ they bring a library of 1 MB.
    """
    os.environ.update(SSL_CERT_FILE=os.devnull, SSL_CERT_DIR=os.devnull, FROZENLIST_NO_EXTENSIONS="1")
    from toolserver.wire.lean import load_server

    load_server()
    importlib.import_module("toolserver.app")


def _settle_memory() -> None:
    """All that was made so far stays: the collector need not look at it again for 10 ms each; and what the
    imports have left free goes back to the system, 0.6 MB in a millisecond."""
    gc.freeze()
    with contextlib.suppress(AttributeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)


def _tool_path() -> str:
    """Where the daemon's own tools are: the system's PATH first, then beside its Python."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))


if __name__ == "__main__":
    main()
