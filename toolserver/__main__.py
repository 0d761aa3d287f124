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
from collections.abc import Iterator, Sequence
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
    with _lean_imports():
        import uvloop  # noqa: F401

        import toolserver.app  # noqa: F401
    from toolserver.tools.tokens import load_verifier

    # Loaded late otherwise, and nearly every workspace comes to need them: content, a write, a token.
    for name in ("isal.igzip_lib", "isal.isal_zlib", "pathspec", "sqlite3", "zstandard"):
        importlib.import_module(name)
    load_verifier()


async def _run(config: Config) -> None:
    # Likewise: aiohttp is most of the start.
    with _lean_imports():
        from toolserver.app import open_app

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    try:
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(open_app(config, os.environ, _tool_path()))
            _settle_memory()
            logs.flush()
            print(f"listening on {running.url}", flush=True)
            await stop.wait()
    finally:
        # A second signal must not turn a stop that went well into a death. The loop's own way to handle
        # signals would restore the default, which is to die, while the interpreter is still tidying up.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _lean_imports() -> Iterator[None]:
    """In here no certificates are read, and lists that freeze are Python's own.

    aiohttp takes in all that the system trusts when it is imported, for a client that here asks nobody but
    loopback: a quarter of the time of that import, and 2 MB. The lists hold its few middlewares and signals;
    in C++ they bring a library of 1 MB.
    """
    chosen = {**dict.fromkeys(("SSL_CERT_FILE", "SSL_CERT_DIR"), os.devnull), "FROZENLIST_NO_EXTENSIONS": "1"}
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


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
