"""Install and the dev server, and ``start``, which is the way from an archive to a page that answers."""

from __future__ import annotations

import enum

from protocol.messages.archives import InjectMode
from protocol.messages.base import Answer, Event, Log, Part, Request


class DevState(enum.Enum):
    """The dev server's life."""

    DOWN = "down"
    INSTALLING = "installing"
    STARTING = "starting"
    READY = "ready"
    CRASHED = "crashed"
    STOPPING = "stopping"


class HttpProbe(Part, frozen=True, kw_only=True):
    """Ready when this path answers, with ``status`` or with anything below 500."""

    path: str = "/"
    status: int | None = None


class LogProbe(Part, frozen=True, kw_only=True):
    """Ready when a line of output matches this regular expression."""

    pattern: str


class FileProbe(Part, frozen=True, kw_only=True):
    """Ready when this file exists in the workspace."""

    path: str


class CommandProbe(Part, frozen=True, kw_only=True):
    """Ready when this command exits with 0."""

    command: str


class Readiness(Part, frozen=True, kw_only=True):
    """When a dev server counts as ready: at most one kind; none means ``http`` with path ``/``."""

    http: HttpProbe | None = None
    port: bool = False
    """Ready when the port takes a connection."""
    log: LogProbe | None = None
    file: FileProbe | None = None
    command: CommandProbe | None = None
    timeout_ms: int | None = None


class Restart(enum.Enum):
    """What becomes of a dev server that ends by itself after it was ready."""

    ON_FAILURE = "on_failure"
    """It is started again, each time after a longer pause, until it has failed too often."""
    NEVER = "never"
    """It stays ended."""


class Install(Request, frozen=True, kw_only=True):
    """Install the workspace's packages. Without ``command`` the package manager is found by its lock file."""

    command: str | None = None
    """``""`` means that nothing is to be installed."""
    package_manager: str | None = None
    """``npm``, ``pnpm``, ``yarn`` or ``bun``, also with ``@version``, whatever the lock file says."""
    env: dict[str, str] = {}
    timeout_ms: int | None = None
    offline: bool = False
    """Take packages from the cache only."""
    store: bool = True
    """Take them from the dependency store when it has them, and keep them there afterwards."""
    pack_to: str | None = None
    """Afterwards write what is installed to this new file, as a pack for a dependency store."""


class StoreOutcome(enum.Enum):
    """What the dependency store had to do with an install."""

    HIT = "hit"
    """The packages came from it, nothing was installed."""
    MISS = "miss"
    """It did not have them; once they are installed it keeps them."""
    OFF = "off"
    """It was not asked: ``reason`` says why."""


class StoreUse(Answer, frozen=True, kw_only=True):
    """The dependency store's part in an install."""

    outcome: StoreOutcome
    key: str | None = None
    """What these packages are known by: 64 hexadecimal digits."""
    layer: str | None = None
    """``shared``, made by the host, or ``own``, of the workspace's owner."""
    means: str | None = None
    """``spare tree``, ``shared blocks`` or ``parallel copy``."""
    files: int = 0
    content_bytes: int = 0
    reason: str | None = None
    """Why it was not asked, or what was wrong with what it has."""


class InstallAnswer(Answer, frozen=True, kw_only=True):
    """What was done."""

    package_manager: str | None
    """null when there was nothing to install."""
    command: str | None
    """The command that succeeded; null too when the packages came from the store."""
    fallback_reason: str | None = None
    """Why the first command was not enough, when a second one was needed."""
    notice: str | None = None
    """What is not as it was asked for, though all went well: another npm than the one pinned."""
    store: StoreUse | None = None
    """null where there is no store, or nothing to install."""
    duration_ms: float


class DevStart(Request, frozen=True, kw_only=True):
    """Start the dev server and wait until it is ready. One that runs with the same command is left alone."""

    command: str | None = None
    """With ``{host}`` and ``{port}``; without it the way is found from package.json or index.html."""
    port: int | None = None
    """4321 unless the tool server was told another."""
    env: dict[str, str] = {}
    readiness: Readiness = Readiness()
    allowed_hosts: list[str] = []
    """Names under which pages are asked for, besides localhost and addresses, for servers built on Vite: they
    answer 403 to all others. One that begins with a dot stands for all below it."""
    restart: Restart = Restart.ON_FAILURE
    restart_on: list[str] | None = None
    """Files, as .gitignore names them, whose change starts it anew; absent: what package.json and the lock
    file say of packages and scripts. Changed packages are installed before. Empty: none."""


class DevStop(Request, frozen=True, kw_only=True):
    """Stop the dev server with everything it started."""


class DevStatus(Request, frozen=True, kw_only=True):
    """Tell the dev server's state."""

    follow: bool = False
    """Go on with what becomes of it, as ``dev_change`` events, until cancelled."""
    from_event: int | None = None
    """Followed: begin with the event of this number, as far back as they are kept; else with the next one."""


class DevStatusAnswer(Answer, frozen=True, kw_only=True):
    """The dev server now."""

    state: DevState
    port: int
    url: str | None
    """Where it answers, as seen from inside the workspace."""
    pid: int | None
    process_id: str | None
    command: str | None
    """What was started, placeholders filled in."""
    exit_code: int | None = None
    """Of the last run, once it crashed."""
    since: str
    """When this state began, ISO 8601 UTC."""
    reason: str | None = None
    """Why it is so, where that is not what was asked for: how it ended, and what comes next."""
    restarts: int = 0
    """How often it was started again by itself since it was asked for."""
    next_try: str | None = None
    """When it is started again, ISO 8601 UTC; null when that is not planned."""
    next_event: int = 1
    """Number of the ``dev_change`` that comes next."""


class DevChange(Event, frozen=True, kw_only=True, tag="dev_change"):
    """The dev server is in another state, or is not started again."""

    number: int
    """From 1 on, without holes, while the tool server lives."""
    at: str
    """ISO 8601 UTC."""
    state: DevState
    reason: str | None = None
    exit_code: int | None = None
    """Of the run that ended."""
    output: list[str] = []
    """That run's last lines."""
    restarts: int = 0
    next_try: str | None = None


class DevLogs(Request, frozen=True, kw_only=True):
    """The dev server's output, both streams in the order they were read."""

    from_offset: int = 0
    max_bytes: int | None = None
    follow: bool = False
    """Go on with what it writes, as ``log`` events, until cancelled or the dev server has ended for good."""


class DevLogsAnswer(Answer, frozen=True, kw_only=True):
    """The log from ``fromOffset`` on, as kept; streamed, ``text`` is empty.

    One log from ``dev_start`` on: a dev server that is started again by itself goes on in it. A read ends
    where bytes are missing in between; the next one begins behind them.
    """

    text: str
    from_offset: int
    """Of the first byte here; larger than asked when older bytes are gone."""
    next_offset: int


class Step(enum.Enum):
    """The stages of ``start``, in order."""

    EXTRACT = "extract"
    INSTALL = "install"
    DEV_SERVER = "dev_server"


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """A stage began, ended, or was not needed."""

    step: Step
    state: str
    """``started``, ``done``, ``skipped`` or ``failed``."""
    message: str
    duration_ms: float | None = None
    number: int = 0
    """Among all events of ``start``, logs too: from 1 on, while the tool server lives. One that is missing
    was dropped, because a megabyte had come since."""


class Start(Request, frozen=True, kw_only=True):
    """Inject, install, start the dev server, wait until it answers: one request from nothing to ready.

    It goes on when its socket is lost. Asked for again while it is under way it is joined; another one is
    refused.
    """

    archive: bytes | None = None
    """Base64 in JSON; absent means that the content is in place already."""
    mode: InjectMode = InjectMode.REPLACE
    digest: str | None = None
    install: Install = Install()
    dev: DevStart = DevStart()
    from_event: int | None = None
    """Begin none: follow the one that is under way, or the last one, from its event of this number on."""
    wait_ms: int | None = None
    """Answer after so long at the latest, with ``running`` true if it is not over; absent: at its end."""


StartEvent = Progress | Log


class StartAnswer(Answer, frozen=True, kw_only=True):
    """Ready, or on the way."""

    dev: DevStatusAnswer
    install: InstallAnswer
    files: int | None
    """Injected by this request; null when it brought no archive."""
    durations_ms: dict[str, float]
    """Per stage."""
    running: bool = False
    """It is under way still: ask for the rest from ``nextEvent`` on."""
    next_event: int = 1
    """Number of the event after those told."""
    events: list[StartEvent] = []
    """Where they are not streamed, and were asked for by ``fromEvent`` or ``waitMs``."""
