"""The static server: ``python -m toolserver.wire.static HOST PORT``, the dev server of a plain directory.

It serves the current directory and reloads its pages when a file changes: a style sheet is swapped in
place, anything else reloads the page. It runs as the workspace's own program, not inside the daemon.
"""

from __future__ import annotations

import asyncio
import mimetypes
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from aiohttp import web
from watchfiles import Change, DefaultFilter, awatch

from protocol.errors import NotAFile, NotFound, ToolError
from protocol.paths import WorkspacePath
from toolserver.system.disk import Disk

EVENTS = "/__live"
"""Where pages listen for changes, as server-sent events."""
_SCRIPT = f"""<script>
new EventSource("{EVENTS}").onmessage = ({{ data }}) => {{
  if (data !== "css") return location.reload();
  for (const link of document.querySelectorAll('link[rel="stylesheet"]')) {{
    const url = new URL(link.href);
    url.searchParams.set("live", Date.now());
    link.href = url;
  }}
}};
</script>
"""
_MAX_FILE_BYTES = 256 * 1024 * 1024
_MAX_WAITING = 8
"""Changes that a page was not sent yet: a gut feeling."""


class StaticSite:
    """One directory, its pages, and the browsers that watch them."""

    def __init__(self, root: Path) -> None:
        self._disk = Disk(root)
        self._root = root
        self._listeners: set[asyncio.Queue[str]] = set()

    def app(self) -> web.Application:
        """The routes, and the watcher as their background task."""
        app = web.Application()
        app.router.add_get(EVENTS, self.events)
        app.router.add_get("/{path:.*}", self.page)
        app.cleanup_ctx.append(self._watched)
        return app

    async def page(self, request: web.Request) -> web.Response:
        """A file; of a directory, its index.html."""
        try:
            path = visible(self._disk.path(request.match_info["path"] or "."))
            data, name = await asyncio.to_thread(self._read, path)
        except ToolError as error:
            return web.Response(status=404, text=f"404: {error.message}\n")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {"Cache-Control": "no-store"}
        if kind == "text/html":
            return web.Response(body=with_script(data), content_type=kind, charset="utf-8", headers=headers)
        charset = "utf-8" if kind.startswith("text/") or kind.endswith(("javascript", "json")) else None
        return web.Response(body=data, content_type=kind, charset=charset, headers=headers)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """One line per change, for as long as the page is open."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        changes: asyncio.Queue[str] = asyncio.Queue(_MAX_WAITING)
        self._listeners.add(changes)
        try:
            await response.write(b": listening\n\n")
            while True:
                await response.write(f"data: {await changes.get()}\n\n".encode())
        except ConnectionError:
            return response
        finally:
            self._listeners.discard(changes)

    def _read(self, path: WorkspacePath) -> tuple[bytes, str]:
        try:
            return self._disk.read(path, _MAX_FILE_BYTES)[0], path
        except NotAFile:
            index = self._disk.path(f"{path}/index.html")
            return self._disk.read(index, _MAX_FILE_BYTES)[0], index

    async def _watched(self, _: web.Application) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._watch())
        yield
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        self._disk.close()

    async def _watch(self) -> None:
        async for changes in awatch(self._root, watch_filter=_Visible(), debounce=50, step=20):
            self.tell(change_kind(path for _, path in changes))

    def tell(self, what: str) -> None:
        """Have all pages know of a change, ``css`` or ``page``."""
        for listener in self._listeners:
            if is_full := listener.full():
                while not listener.empty():
                    listener.get_nowait()
            # A page that does not read is loaded anew: that makes up for all that it has missed.
            listener.put_nowait("page" if is_full else what)


def visible(path: WorkspacePath) -> WorkspacePath:
    """``path``, unless a name on it begins with a dot: .env and .git are no part of a site.

    >>> visible(WorkspacePath("a/b.html"))
    'a/b.html'
    """
    hidden = any(part.startswith(".") and part not in (".", ".well-known") for part in path.split("/"))
    if hidden:
        raise NotFound(f"there is nothing at {path!r}", path=path)
    return path


class _Visible(DefaultFilter):
    """Not the files that are written on the way to a rename."""

    def __call__(self, change: Change, path: str) -> bool:
        return not path.endswith("~") and super().__call__(change, path)


def change_kind(paths: Iterable[str]) -> str:
    """``css`` when style sheets alone have changed, else ``page``.

    >>> change_kind(["a.css", "b.css"]), change_kind(["a.css", "index.html"])
    ('css', 'page')
    """
    return "css" if all(path.endswith(".css") for path in paths) else "page"


def with_script(page: bytes) -> bytes:
    """A page with the script that listens, before its ``</body>`` or at its end.

    >>> with_script(b"<body>x</body>").endswith(b"</script>\\n</body>")
    True
    """
    at = page.lower().rfind(b"</body>")
    at = len(page) if at < 0 else at
    return page[:at] + _SCRIPT.encode() + page[at:]


def main() -> None:
    """Serve until told to stop."""
    host, port = sys.argv[1], int(sys.argv[2])
    site = StaticSite(Path.cwd())
    web.run_app(site.app(), host=host, port=port, shutdown_timeout=0.5, handle_signals=True)


if __name__ == "__main__":
    main()
