"""A network of its own for the process that ties itself down: a namespace, and pasta between it and the host.

Inside, every port is the session's own. Outward connections leave through pasta, a user-mode router; ports
that are published are listened on at the host's 127.0.0.1; ports that are borrowed are the host's loopback
services seen on the inner loopback. Nothing else of the host's loopback is there.

Nobody has to look after pasta: a shell that reads from a pipe ends it. The pipe's other end is held by the
process that becomes the tool server, and by nobody else, so that they end together, however that one ends.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs as much as all else here together
import _socket
import os
import struct

from orchestrator.isolation import kernel

NEW_MOUNTS, NEW_USERS, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
_BIND, _RECURSIVE, _PRIVATE, _SLAVE = 4096, 16384, 1 << 18, 1 << 19
PID_FILE, PROCESS_FILE = "network.pid", "network.process"
"""What pasta writes, and with the start time beside it what others go by."""
LOG_FILE, NAMESPACE_FILE = "network.log", "network.ns"
NAME_SERVER = "169.254.1.1"
"""Where a resolver that listens on the host's loopback is found inside: pasta hands on what comes there."""
_SCRATCH = "/tmp"
_KEEPER = 'read -r _; kill -KILL "$1"'
_ROUTE_NETLINK, _NEW_ROUTE, _UNREACHABLE = 0, 24, 7
_REQUEST_CREATE_ANSWER = 0x1 | 0x400 | 0x4


def enter(
    pasta: str, directory: str, publish: list[str], borrow: list[str], shut: list[str], forward: list[str]
) -> None:
    """Go into a new network that works.

    ``directory`` is the sandbox's own and not the workspace's; the helper's files lie there. Addresses in
    ``shut`` are those of the host: they are out of reach from inside. What is asked of the name server
    ``forward`` is asked of the host's own. Without root this is also a new user namespace, in which the user
    is the same and nobody else is anybody.
    """
    go, said = os.pipe()
    held, life = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(life)
        os.close(said)
        _start_and_exit(go, held, options(pasta, publish, borrow, forward), directory)
    os.close(held)
    _leave_host()
    os.write(said, b"x")
    os.close(said)
    os.close(go)
    if os.waitpid(helper, 0)[1]:
        said_last = last_words(directory)
        raise OSError(f"no network of its own: pasta says {said_last!r}; WORKSPACE_NETWORK=shared needs none")
    os.set_inheritable(life, True)
    for address in shut:
        _make_unreachable(address)


def options(pasta: str, publish: list[str], borrow: list[str], forward: list[str]) -> list[str]:
    """pasta's command line, but for where the namespace is.

    >>> options("pasta", ["9001", "8000"], ["3128"], [])[4:8]
    ['-t', '127.0.0.1/8000', '-t', '127.0.0.1/9001']
    """
    inward = [word for port in sorted(publish, key=int) for word in ("-t", f"127.0.0.1/{port}")]
    outward = ["-T", ",".join(borrow) or "none", "-U", "none"]
    fixed = [pasta, "--config-net", "--no-map-gw", "--quiet"]
    # Only where it is needed: pasta of 2023 then loses what is asked of any other name server.
    names = [word for address in forward for word in ("--dns-forward", address)]
    return [*fixed, *(inward or ["-t", "none"]), "-u", "none", *outward, *names]


def helpers(directory: object) -> set[tuple[int, int]]:
    """pasta's process id and start time, whether it still runs or not."""
    try:
        pid, started = _text(f"{directory}/{PROCESS_FILE}").split()
        return {(int(pid), int(started))}
    except (OSError, ValueError):
        return set()


def was_entered(directory: object) -> bool:
    """Whether a network may have been gone into: who serves it is written down before."""
    return os.path.lexists(f"{directory}/{PROCESS_FILE}")


def last_words(directory: str) -> str:
    """What pasta complained about.

    >>> last_words("/nowhere")
    'nothing'
    """
    try:
        text = _text(f"{directory}/{LOG_FILE}")
    except OSError:
        return "nothing"
    # Without a system log it says so for every line that it could not send there.
    lines = [line.strip() for line in text.splitlines() if line.strip() and "to syslog" not in line]
    return lines[-1] if lines else "nothing"


def _leave_host() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        kernel.unshare(NEW_NETWORK)
        return
    kernel.unshare(NEW_USERS | NEW_NETWORK | NEW_MOUNTS)
    kernel.mount("none", "/", None, _RECURSIVE | _SLAVE)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        _write(f"/proc/self/{name}", text)


def _start_and_exit(go: int, held: int, command: list[str], directory: str) -> None:
    """In the helper: start pasta, then leave the keeper behind. Does not return."""
    status = 1
    try:
        os.setsid()
        if os.read(go, 1):
            command, directory = _with_namespace(command, directory, f"/proc/{os.getppid()}/ns")
            status = _run([*command, "--pid", f"{directory}/{PID_FILE}"], f"{directory}/{LOG_FILE}")
            if status == 0:
                pid = _text(f"{directory}/{PID_FILE}").strip()
                started = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
                _write(f"{directory}/{PROCESS_FILE}", f"{pid} {started}", os.O_CREAT | os.O_TRUNC)
                if os.fork() == 0:
                    _keep(held, pid)
    finally:
        os._exit(1 if status else 0)


def _with_namespace(command: list[str], directory: str, namespaces: str) -> tuple[list[str], str]:
    if os.geteuid() != 0:
        return [*command, "--userns", f"{namespaces}/user", "--netns", f"{namespaces}/net"], directory
    # pasta gives most of root's rights away before it opens anything: it could not follow /proc/PID/ns, nor
    # pass directories of other users. So all that it needs is shown to it in one place.
    kernel.unshare(NEW_MOUNTS)
    kernel.mount("none", "/", None, _RECURSIVE | _PRIVATE)
    kernel.mount(directory, _SCRATCH, None, _BIND)
    place = f"{_SCRATCH}/{NAMESPACE_FILE}"
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    kernel.mount(f"{namespaces}/net", place, None, _BIND)
    return [*command, "--runas", "0", "--netns-only", "--netns", place], _SCRATCH


def _run(command: list[str], log: str) -> int:
    """pasta's exit status; it goes to the background once all is in place."""
    pid = os.fork()
    if pid == 0:
        try:
            _quiet(
                os.open("/dev/null", os.O_RDWR), os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            )
            # Some versions take a signal that is ignored already for a failure to ignore it.
            _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
            os.chdir("/")
            os.execve(command[0], command, {})
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def _keep(held: int, pid: str) -> None:
    try:
        _quiet(held, os.open("/dev/null", os.O_RDWR))
        os.chdir("/")
        os.execve("/bin/sh", ["/bin/sh", "-c", _KEEPER, "workspace-network", pid], {})
    finally:
        os._exit(1)


def _quiet(stdin: int, rest: int) -> None:
    for source, target in ((stdin, 0), (rest, 1), (rest, 2)):
        os.dup2(source, target)


def _make_unreachable(address: str) -> None:
    """A route that leads nowhere, to one address."""
    family = 10 if ":" in address else 2
    raw = _socket.inet_pton(family, address)
    message = struct.pack("=BBBBBBBBI", family, len(raw) * 8, 0, 0, 254, 4, 0, _UNREACHABLE, 0)
    message += struct.pack("=HH", 4 + len(raw), 1) + raw
    header = struct.pack("=IHHII", 16 + len(message), _NEW_ROUTE, _REQUEST_CREATE_ANSWER, 1, 0)
    netlink = _socket.socket(16, 3, _ROUTE_NETLINK)
    try:
        netlink.send(header + message)
        error = -struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    finally:
        netlink.close()
    if error:
        raise OSError(error, os.strerror(error), address)


def _text(path: str) -> str:
    with open(path) as file:  # noqa: PTH123 - no pathlib here
        return file.read()


def _write(path: str, text: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
