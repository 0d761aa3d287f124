"""GET /metrics: figures for Prometheus, in its text format.

Nothing is counted for it that is not counted anyway, and the library that writes the format is loaded by the
first who asks. Labels hold names out of tables, never a path, a user or anything that a caller made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from protocol import __version__
from protocol.messages.devserver import DevState
from toolserver.system.processes import ProcessTable
from toolserver.system.pulse import Pulse
from toolserver.tools.admission import METRICS, refuse_beyond
from toolserver.tools.devserver import DevServer
from toolserver.tools.ledger import Ledger
from toolserver.tools.packages import Packages

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics(
    ledger: Ledger,
    pulse: Pulse,
    table: ProcessTable,
    dev: DevServer,
    packages: Packages,
    dropped_lines: Callable[[], int],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler; it needs the scope ``read``."""

    class Source:
        """One look."""

        def collect(self) -> Iterator[Metric]:
            """Everything that there is to tell."""
            yield from _of_operations(ledger)
            yield from _of_the_daemon(ledger, pulse, table, dev, dropped_lines())
            yield _of_the_store(packages)

    async def handle(request: web.Request) -> web.Response:
        refuse_beyond(request["admission"], METRICS)
        # On a thread the first time only: loading it takes 12 ms.
        exposition = await asyncio.to_thread(_library)
        body = exposition(Source())
        return web.Response(body=body, headers={"Content-Type": _TYPE, "Cache-Control": "no-store"})

    return handle


def _library() -> Callable[..., bytes]:
    from prometheus_client.exposition import generate_latest

    return generate_latest


def _of_operations(ledger: Ledger) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    figures = ledger.figures
    requests = CounterMetricFamily(
        "toolserver_requests", "Operations that have ended.", labels=["operation", "outcome"]
    )
    for (operation, outcome), count in figures.outcomes.items():
        requests.add_metric([operation, outcome], count)
    yield requests
    durations = HistogramMetricFamily(
        "toolserver_request_duration_seconds", "From admission to answer.", labels=["operation"]
    )
    for operation, each in figures.durations.items():
        durations.add_metric([operation], each.cumulative(), each.seconds)
    yield durations
    met = CounterMetricFamily("toolserver_limits_met", "Refusals by a limit.", labels=["limit"])
    for limit, count in figures.limits.items():
        met.add_metric([limit], count)
    yield met
    yield CounterMetricFamily("toolserver_received_bytes", "Of requests.", figures.bytes_in)
    yield CounterMetricFamily("toolserver_sent_bytes", "Of answers and events.", figures.bytes_out)
    yield GaugeMetricFamily("toolserver_requests_under_way", "Operations.", ledger.under_way)


def _of_the_daemon(
    ledger: Ledger, pulse: Pulse, table: ProcessTable, dev: DevServer, dropped: int
) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    gauges = {
        "sockets": ("Open WebSockets, but for those that only watch.", pulse.sockets),
        "programs_running": ("Commands, dev server, searches.", sum(each.running for each in table.all())),
        "resident_memory_bytes": ("Of the daemon alone.", _resident_bytes()),
        "loop_lag_seconds": ("How late the event loop was, at the last look.", ledger.lag.last),
        "loop_lag_worst_seconds": ("The same, the worst of the last minute.", ledger.lag.worst),
    }
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(f"toolserver_{name}", text, value)
    counters = {
        "programs_started": ("Commands, dev servers, searches.", table.starts),
        "output_bytes": ("That programs have written.", table.output_bytes),
        "log_lines_dropped": ("Because whoever reads the log is too slow.", dropped),
        "audit_lines_lost": ("In no file, as the disk took none for too long.", ledger.auditing.lost),
    }
    for name, (text, value) in counters.items():
        yield CounterMetricFamily(f"toolserver_{name}", text, value)
    states = GaugeMetricFamily("toolserver_dev_server", "1 for the state that it is in.", labels=["state"])
    for state in DevState:
        states.add_metric([state.value], state is dev.state)
    yield states
    yield InfoMetricFamily("toolserver", "The tool server.", {"version": __version__})


def _of_the_store(packages: Packages) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    means = GaugeMetricFamily(
        "toolserver_dependency_store_means",
        "1 for each means by which packages of that store can be put in place, as found at start.",
        labels=["store", "means"],
    )
    for layer, names in packages.means.items():
        for name in names:
            means.add_metric([layer, name], 1)
    return means


def _resident_bytes() -> int:
    # Made by the kernel out of two counters: no disk is waited for.
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
