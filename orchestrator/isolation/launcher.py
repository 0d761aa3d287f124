"""``python -I -S launcher.py NAME VALUE ... -- COMMAND ...``: tie oneself down, then become COMMAND.

Names, in any order, most of them as often as wanted:

    network PROGRAM, helper DIR, publish PORT,    a network of one's own (``network.enter``)
        borrow PORT, shut ADDRESS, forward ADDRESS
    listen PORT                                   on the loopback of before: COMMAND gets the socket
    cover DIR, keep PATH, tmp DIR, passwd FILE    a view of one's own (``view.enter``)
    resolver FILE                                 seen as /etc/resolv.conf
    inform FILE                                   opened for bubblewrap, COMMAND, as descriptor 3
    uid N, gid N, group N                         whom to become
    read|write|list|device PATH                   what is left of the file system (``landlock.KINDS``)
    bind PORT, connect PORT                       and of the TCP ports; ``bind 0`` means any free one. Without
                                                  any of them TCP is not judged
    landlock ABI                                  how many of Landlock's rules to apply; without it none
    filter MACHINE                                close the ways around the rules on ports (``seccomp``)

Whatever cannot be done ends the start: the command never runs with less than was asked for.
"""

from __future__ import annotations

import fcntl
import os
import sys

CANNOT_RUN = 126
"""Exit code, as env(1) and nohup(1) have it."""
_BACKLOG = 128
_FIRST_FD = 10


def main(words: list[str]) -> None:
    """Does not return."""
    # -I keeps our own package off the path; nothing of the current directory is to get on it.
    sys.path.insert(0, __file__.rsplit("/", 3)[0])
    end = words.index("--")
    try:
        told = grouped(words[:end])
        tie_down(told)
        for path in told.get("inform", []):
            _open_as_third(path)
        command = words[end + 1 :]
        os.execv(command[0], command)
    except OSError as error:
        give_up(error)


def give_up(error: OSError) -> None:
    """Does not return: nothing runs with less than was asked for."""
    sys.stderr.write(f"this host does not let a workspace be isolated: {error}; see docs/security.md\n")
    sys.exit(CANNOT_RUN)


def tie_down(told: dict[str, list[str]]) -> None:
    """In the only order that works: mounts need root, access rules outlive it, the filter comes last."""
    from orchestrator.isolation import kernel, landlock, seccomp, view

    listeners = [_listening(port) for port in told.get("listen", [])]
    if "network" in told:
        _enter_network(told)
    for fd in listeners:  # only now: neither pasta nor its keeper is to hold the port
        os.set_inheritable(fd, True)
        os.environ["TOOL_SERVER_LISTEN_FD"] = str(fd)
    if "cover" in told:
        view.enter(told["cover"], told.get("keep", []), told["tmp"][0], told["passwd"][0])
        view.hide_others()
    for path in told.get("resolver", []):
        view.show(path, "/etc/resolv.conf", fresh="cover" not in told)
    _become(told)
    if "inform" not in told:  # bubblewrap sees to that itself, and may need rights of its own before
        kernel.no_new_privileges()
    for abi in told.get("landlock", []):
        paths = [(kind, path) for kind in landlock.KINDS for path in told.get(kind, [])]
        bind, connect = ([int(port) for port in told.get(name, [])] for name in ("bind", "connect"))
        landlock.restrict_self(int(abi), paths, bind, connect)
    for machine in told.get("filter", []):
        seccomp.apply(machine)


def _listening(port: str) -> int:
    """Stays a socket of the network in which it was made: clients come in without anybody in between."""
    import _socket

    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", int(port)))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"port {port} is taken") from None
    # Out of the way of bubblewrap's report, which is the third.
    return fcntl.fcntl(listener, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)


def _enter_network(told: dict[str, list[str]]) -> None:
    from orchestrator.isolation import network

    publish, borrow, shut, forward = (told.get(name, []) for name in ("publish", "borrow", "shut", "forward"))
    network.enter(told["network"][0], told["helper"][0], publish, borrow, shut, forward)


def _open_as_third(path: str) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    if fd == 3:
        os.set_inheritable(fd, True)
    else:
        os.dup2(fd, 3)


def _become(told: dict[str, list[str]]) -> None:
    for uid, gid in zip(told.get("uid", []), told.get("gid", []), strict=True):
        os.setgroups([int(group) for group in told.get("group", [])])
        os.setresgid(int(gid), int(gid), int(gid))
        os.setresuid(int(uid), int(uid), int(uid))


def grouped(words: list[str]) -> dict[str, list[str]]:
    """The values of each name, in their order.

    >>> grouped(["read", "/usr", "uid", "7", "read", "/etc"])
    {'read': ['/usr', '/etc'], 'uid': ['7']}
    """
    told: dict[str, list[str]] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        told.setdefault(name, []).append(value)
    return told


if __name__ == "__main__":
    main(sys.argv[1:])
