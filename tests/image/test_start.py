"""How a container starts, says that it lives, and stops."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from typing import Any

import pytest

from tests.image.figures import Figures, median_seconds
from tests.image.support import (
    IMAGE,
    PORTS,
    TOKEN,
    Guest,
    created,
    daemon_pid,
    docker,
    eventually,
    in_image,
    workspace,
)

ROUNDS = 5


def test_docker_run_alone_is_usable_with_the_token_it_prints() -> None:
    with created(*PORTS, IMAGE) as started:
        started.wait_healthy()
        told = re.fullmatch(r"token: ([\w-]{32})", started.first_line())
        assert told
        guest = Guest(started.id, told[1])
        guest.call("write", {"path": "notes/todo.md", "content": "- buy milk\n"})
        edited = {"path": "notes/todo.md", "oldText": "milk", "newText": "bread"}
        assert guest.call("edit", edited)
        assert guest.call("search", {"pattern": "bread"})["matches"][0]["path"] == "notes/todo.md"
        assert guest.output("cat notes/todo.md") == "- buy bread"
        assert Guest(started.id, "not-the-token-it-printed").get("/v1/archive")[0] == 401


def test_every_container_makes_a_token_of_its_own() -> None:
    tokens = set()
    for _ in range(2):
        with created(IMAGE) as guest:
            assert guest.first_line().startswith("token: ")
            tokens.add(guest.first_line())
    assert len(tokens) == 2


def test_a_chosen_token_is_never_printed() -> None:
    with workspace() as guest:
        assert guest.first_line() == "listening on http://0.0.0.0:3001"
        assert guest.logs()[0] == "listening on http://0.0.0.0:3001\n"
        assert TOKEN not in "".join(guest.logs())


def test_flags_go_to_the_daemon_and_the_health_check_follows_the_port() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", docker("run", "--rm", IMAGE, "--version"))
    with created("--env", "TOOL_SERVER_PORT=3777", "--network=none", IMAGE) as guest:
        eventually("healthy", lambda: guest.state("Health.Status") == "healthy")
    with pytest.raises(subprocess.CalledProcessError, match="2"):
        docker("run", "--rm", IMAGE, "--port", "none")


def test_the_engine_finds_it_healthy_without_any_network() -> None:
    with created("--network=none", IMAGE) as guest:
        eventually("healthy", lambda: guest.state("Health.Status") == "healthy")


def test_the_engine_notices_a_daemon_that_does_not_answer() -> None:
    quick = ("--health-interval=1s", "--health-retries=2", "--health-timeout=3s")
    with created(*quick, "--network=none", IMAGE) as guest:
        eventually("healthy", lambda: guest.state("Health.Status") == "healthy")
        guest.exec("bash", "-c", f"kill -STOP {daemon_pid(guest)}")
        eventually("unhealthy", lambda: guest.state("Health.Status") == "unhealthy")


def test_the_log_is_json_on_stderr_one_object_a_line() -> None:
    with workspace() as guest:
        guest.run("true")
        eventually("a line is logged", lambda: "\n" in guest.logs()[1])
        lines = [json.loads(line) for line in guest.logs()[1].splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


def test_docker_stop_ends_a_running_command_in_order_and_within_its_grace() -> None:
    with workspace() as guest:
        trap = "trap 'echo bye > /app/bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
        heeding = guest.run(trap, background=True)
        deaf = guest.run("trap '' TERM; echo up; sleep 1000", background=True)
        for each in (heeding, deaf):
            eventually("its trap is set", lambda each=each: printed(guest, each) == "up\n")
        begun = time.monotonic()
        docker("stop", "--time", "10", guest.id)
        taken = time.monotonic() - begun
        # 137 would be the engine's own kill at the end of the grace.
        assert guest.state("ExitCode") in ("0", "143"), f"after {taken:.1f} s: {guest.logs()}"
        assert docker("cp", f"{guest.id}:/app/bye", "-")
        assert json.loads(guest.logs()[1].splitlines()[-1])["message"] == "stopping"


def printed(guest: Guest, started: dict[str, Any]) -> str:
    """What a command in the background has printed so far."""
    return str(guest.call("output", {"processId": started["processId"]})["data"])


def test_the_start_is_told_beside_a_bare_container(figures: Figures) -> None:
    label = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'
    base = docker("image", "inspect", "--format", label, IMAGE)
    bare = median_seconds(lambda: docker("run", "--rm", base, "true"), ROUNDS)
    ours = statistics.median(seconds_to_health() for _ in range(ROUNDS))
    figures.add("`docker run` of the bare base, to its end", f"{bare:.2f} s")
    figures.add("`docker run` to /health", f"{ours:.2f} s", f"{ours - bare:+.2f} s, at most +1.00 s")


def seconds_to_health() -> float:
    """From the start of `docker run` to the first answer."""
    begun = time.monotonic()
    with workspace():
        return time.monotonic() - begun


def test_the_idle_memory_is_told(figures: Figures) -> None:
    with workspace() as guest:
        guest.run("true")
        time.sleep(1)
        used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", guest.id).split(" / ")[0]
        resident = int(guest.exec("ps", "-o", "rss=", "-p", daemon_pid(guest))) / 1024
    figures.add("idle memory of the container", used, f"of it the daemon's resident set: {resident:.0f} MiB")


OWN_CERTIFICATE = """
set -e
cd /run/certificates
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout key.pem -out ca.pem 2>/dev/null
chmod a+r key.pem
"""
SERVER = """
import http.server, ssl
server = http.server.HTTPServer(("127.0.0.1", 8443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/run/certificates/ca.pem", "/run/certificates/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


URL = "https://localhost:8443/"
QUESTIONS = {
    "curl": f"curl -sS -o /dev/null {URL}",
    "node": f"node -e 'fetch(\"{URL}\").then(() => process.exit(0), () => process.exit(1))'",
    "python": f"python3 -c 'import urllib.request as u; u.urlopen(\"{URL}\")'",
    "git": f"git ls-remote {URL}x 2>&1 | grep -q 'not found'",
    "npm": f"npm ping --fetch-retries=0 --registry {URL} 2>&1 | grep -q E404",
}
"""A program each, and a line that succeeds when it trusts the server."""


def test_a_mounted_ca_bundle_is_trusted_by_every_program_beside_the_systems() -> None:
    volume = docker("volume", "create")
    mount = f"--volume={volume}:/run/certificates"
    try:
        in_image("bash", "-c", OWN_CERTIFICATE, options=["--user=0", mount])
        with workspace(mount) as guest:
            assert trusting(guest) == set()
        with workspace(mount, "--env=EXTRA_CA_BUNDLE=/run/certificates/ca.pem") as guest:
            assert trusting(guest) == QUESTIONS.keys()
            count = "grep -c BEGIN.CERTIFICATE"
            told = guest.output(f"{count} /etc/ssl/certs/ca-certificates.crt; {count} $SSL_CERT_FILE")
            public, all_of_them = map(int, told.split())
            assert all_of_them == public + 1
    finally:
        docker("volume", "rm", "--force", volume)


def trusting(guest: Guest) -> set[str]:
    """Which programs trust a server with that certificate, run inside."""
    guest.call("command", {"argv": ["python3", "-c", SERVER], "background": True})
    eventually("the server listens", lambda: guest.run(f"curl -sk {URL}")["exitCode"] == 0)
    return {name for name, question in QUESTIONS.items() if guest.run(question)["exitCode"] == 0}
