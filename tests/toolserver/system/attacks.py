"""A command's attacks on its tool server, and what it must still be able to do; one word for each.

    python attacks.py PID STATE PROGRAMS ABSTRACT NEIGHBOUR

A program of its own, on the standard library alone: it runs as a command does.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ESRCH, errno.ECONNREFUSED, errno.EROFS}
X86 = os.uname().machine == "x86_64"
TKILL, TGKILL, QUEUE = (200, 234, 129) if X86 else (130, 131, 138)
PTRACE_SEIZE = 0x4206


def call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(LIBC.syscall(number, *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def follow_a_descriptor(task: Path) -> None:
    (task / "fd" / "0").readlink()


def read(path: Path) -> None:
    with path.open("rb") as file:
        file.read(16)


def trace(pid: int) -> None:
    if LIBC.ptrace(PTRACE_SEIZE, pid, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def read_memory(pid: int) -> None:
    room = ctypes.create_string_buffer(8)
    vector = struct.pack("@PN", ctypes.addressof(room), 8)
    call(310 if X86 else 270, pid, vector, 1, vector, 1, 0)


def take_descriptor(pid: int) -> None:
    call(438, os.pidfd_open(pid), 0, 0)


def own_a_pipe(whom: int) -> None:
    """Whoever owns one gets a signal of one's choice when it can be read."""
    into, _ = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETOWN, whom)


def own_a_pipe_by_struct(whom: int) -> None:
    into, _ = os.pipe()
    fcntl.fcntl(into, 15, struct.pack("ii", 0, whom))


def own_a_socket(whom: int) -> None:
    fcntl.ioctl(socket.socket(), 0x8901, struct.pack("i", whom))


def signal_by_directory(whom: int) -> None:
    fd = os.open(f"/proc/{whom}", os.O_DIRECTORY)
    signal.pidfd_send_signal(fd, 0)


def lower_limit(pid: int) -> None:
    call(302 if X86 else 261, pid, 4, struct.pack("QQ", 0, 0), None)


def connect(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name)


def write(path: Path) -> None:
    path.write_text("x")
    path.unlink()


def open_to_write(path: Path) -> None:
    path.open("ab").close()


def names(path: Path) -> list[str]:
    return [each.name for each in path.iterdir()]


def move(path: Path, to: Path) -> None:
    path.write_text("x")
    path.rename(to)


def signals(pid: int, thread: int) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "kill", lambda: os.kill(thread, 0)
    yield "tkill", lambda: call(TKILL, thread, 0)
    yield "tgkill", lambda: call(TGKILL, pid, thread, 0)
    yield "queue a signal", lambda: call(QUEUE, thread, 0, struct.pack("iii", 0, 0, -1) + bytes(116))
    yield "signal by directory", lambda: signal_by_directory(thread)
    yield "lower its limits", lambda: lower_limit(thread)
    yield "trace", lambda: trace(thread)
    yield "read memory by call", lambda: read_memory(thread)


def owners(thread: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Of the thread that starts commands: to others such a signal is not delivered, which nobody sees."""
    yield "own a pipe", lambda: own_a_pipe(thread)
    yield "own a pipe by struct", lambda: own_a_pipe_by_struct(thread)
    yield "own a socket", lambda: own_a_socket(thread)


def attacks(pid: int, state: Path, programs: Path, name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    daemon = Path(f"/proc/{pid}")
    tasks = sorted((daemon / "task").iterdir(), key=guarded)
    yield from owners(int(tasks[-1].name))
    for task in tasks:
        yield from signals(pid, int(task.name))
        for each in ("mem", "environ", "maps", "syscall", "stack"):
            yield f"read {each}", functools.partial(read, task / each)
        yield "follow a descriptor", functools.partial(follow_a_descriptor, task)
    yield "take a descriptor", lambda: take_descriptor(pid)
    yield "enter its root", lambda: names(daemon / "root" / "proc")
    yield "read a file of the daemon", lambda: read(state / "secret")
    yield "change a file of the daemon", lambda: (state / "secret").open("ab").close()
    yield "change a mode of the daemon's files", lambda: (state / "secret").chmod(0o600)
    yield "remove a file of the daemon", (state / "secret").unlink
    yield "make a file beside it", lambda: write(state / "mine")
    yield "move its directory", lambda: state.rename(state.with_name("elsewhere")).rename(state)
    yield "list names of the daemon's files", lambda: names(state)
    yield "write a program of the daemon", lambda: write(programs / "mine")
    yield "connect to an abstract socket outside", lambda: connect(name)
    for place in control_groups():
        yield "change a control group", functools.partial(open_to_write, place / "cgroup.procs")


def control_groups() -> Iterator[Path]:
    """By one, all who are in it are frozen or ended."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith(("cgroup ", "cgroup2 ")):
            yield Path(mount.split()[4])


def life(neighbour: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """What all this must not keep a command from."""
    yield "own: write", lambda: write(Path("mine"))
    yield "own: write in HOME", lambda: write(Path.home() / "mine")
    yield "own: write in TMPDIR", lambda: tempfile.NamedTemporaryFile().close()
    yield "own: move from HOME", lambda: move(Path.home() / "mine", Path("mine"))
    yield "own: read /proc", lambda: read(Path("/proc/self/environ"))
    yield "own: a terminal", lambda: os.write(os.openpty()[1], b"x")
    yield "own: /dev/null", lambda: Path("/dev/null").write_text("x")
    yield "own: run a program", lambda: subprocess.run(["true"], check=True)
    yield "own: signal another command", lambda: os.kill(neighbour, 0)
    yield "own: read another command's variables", lambda: read(Path(f"/proc/{neighbour}/environ"))
    yield "own: an abstract socket", own_abstract


def own_abstract() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("")
        server.listen()
        connect(server.getsockname()[1:].decode())


def guarded(task: Path) -> int:
    """How many filters that thread is under: most of all, the one that starts commands."""
    lines = (task / "status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Seccomp_filters")), 0)


def tried(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError as error:
        if error.errno in (errno.EFAULT, errno.EIO):
            return "open"  # only the address was wrong
        return "refused" if error.errno in REFUSED else f"failed: {error}"
    return "open"


def main() -> None:
    pid, state, programs, name, neighbour = sys.argv[1:]
    found: dict[str, str] = {}
    for what, act in (*attacks(int(pid), Path(state), Path(programs), name), *life(int(neighbour))):
        outcome = tried(act)
        if found.get(what, "refused") == "refused":
            found[what] = outcome  # of many threads, one that gives way is enough
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"found": found, "noNewPrivileges": status["NoNewPrivs"].strip(), "uid": os.getuid()}))


if __name__ == "__main__":
    main()
