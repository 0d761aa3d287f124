"""What this host offers, and what is made of it: a table, without a look at the host.

    wish      the host                                   what a workspace gets
    none      any                                        nothing: commands may do what this user may
    auto      root, and sessions' users get everywhere   a user of its own, and Landlock where there is one
    auto      not root, Landlock                         Landlock, all as this user
    auto      neither                                    nothing, and the properties say so
    landlock  no Landlock                                no start
    bwrap     bubblewrap, and namespaces                 all of auto, and namespaces for processes and mounts
    bwrap     either is missing                          no start

Each of them, ``none`` apart, gets a network of its own where the host can give one (``network.py``); else
rules on TCP ports, which Landlock knows by number only, so that a port is everybody's or nobody's.

``properties`` turns the outcome into promises, ``left_open`` names what none of them covers. Both are read by
people, so they claim no more than the tests in tests/orchestrator/isolation show.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.isolation.landlock import MIN_ABI, NET_ABI, SCOPE_ABI, TRUNCATE_ABI
from protocol.errors import Unavailable

OPTION = "WORKSPACE_ISOLATION"
NETWORK_OPTION = "WORKSPACE_NETWORK"


class Wish(enum.Enum):
    """What was asked for; the values are those of the option."""

    AUTO = "auto"
    LANDLOCK = "landlock"
    BWRAP = "bwrap"
    NONE = "none"


class Network(enum.Enum):
    """What was asked for; the values are those of the option."""

    AUTO = "auto"
    """A network of its own where there can be one."""
    OWN = "own"
    SHARED = "shared"
    """The host's, with rules on ports."""


@dataclass(frozen=True)
class Facts:
    """What the host offers."""

    abi: int = 0
    """Landlock's version; 0 when there is none."""
    filter: bool = False
    """System calls can be filtered on this machine."""
    root: bool = False
    users: bool = False
    """We may become other users, give files away to them, and end their processes."""
    views: bool = False
    """We may make mount namespaces."""
    closed: tuple[str, ...] = ()
    """Directories on the way to what is needed that other users may not pass."""
    unreadable: tuple[str, ...] = ()
    """What is needed and not readable by other users."""
    no_network: str = "no look was taken"
    """Why a session cannot have a network of its own, as a clause; empty when it can."""
    no_bwrap: str = "no look was taken"
    """Why bubblewrap is not to be had, as a clause; empty when it is."""


@dataclass(frozen=True)
class Tier:
    """What is done about a workspace's commands."""

    landlock: int = 0
    """The ABI whose rules are applied; 0 for none."""
    filter: bool = False
    """The ways around Landlock's rules on ports are closed."""
    users: bool = False
    """A user per session."""
    view: bool = False
    """A mount namespace per session."""
    root: bool = False
    """Commands run as root."""
    network: bool = False
    """A network namespace per session: every port in it is the session's own."""
    bwrap: bool = False
    """Process, mount, IPC and host name namespaces per session, made by bubblewrap."""
    any_port: bool = False
    """No rules on ports, because one person has the host to himself."""

    @property
    def name(self) -> str:
        """For a person.

        >>> Tier().name, Tier(landlock=7, users=True, view=True, network=True).name
        ('none', 'Landlock, a user per session, a view of its own, a network of its own')
        """
        table = (
            (self.bwrap, "bubblewrap"),
            (self.landlock, "Landlock"),
            (self.users, "a user per session"),
            (self.view, "a view of its own"),
            (self.network, "a network of its own"),
            (self.any_port, "one user, any port"),
        )
        return ", ".join(word for holds, word in table if holds) or "none"

    @property
    def ports(self) -> bool:
        """Whether TCP ports are judged by their number."""
        return self.landlock >= NET_ABI and not self.network and not self.any_port

    @property
    def own_processes(self) -> bool:
        """Whether others' processes are not even seen."""
        return self.view or self.bwrap

    @property
    def anything(self) -> bool:
        """Whether a command is started in another way than it would be by itself."""
        return bool(self.landlock or self.users or self.bwrap or self.network)


def decide(wish: Wish, facts: Facts, network: Network = Network.AUTO, one_user: bool = False) -> Tier:
    """The strongest tier that the host offers, or the very one that was asked for; raises Unavailable."""
    if wish is Wish.NONE:
        return Tier(root=facts.root)
    if wish is Wish.BWRAP and facts.no_bwrap:
        raise Unavailable(f"isolation by bubblewrap is not to be had: {facts.no_bwrap}; or set {OPTION}=auto")
    if network is Network.OWN and facts.no_network:
        raise Unavailable(
            f"a workspace cannot have a network of its own: {facts.no_network}; or set {NETWORK_OPTION}=auto"
        )
    if wish is Wish.LANDLOCK and facts.abi < MIN_ABI:
        raise Unavailable(
            f"this host offers no Landlock (Linux 5.19 or newer has it, unless the boot parameter lsm= or a "
            f"container's seccomp profile leaves it out): use such a host, or set {OPTION}=auto"
        )
    landlock = facts.abi if facts.abi >= MIN_ABI else 0
    # A /proc that hides others is a matter of one mount only since Linux 5.8; Landlock is younger than that.
    views = facts.views and landlock > 0
    bwrap = wish is Wish.BWRAP
    users = facts.users and not facts.unreadable and (views or bwrap or not facts.closed)
    own = network is not Network.SHARED and not facts.no_network
    return Tier(
        landlock=landlock,
        filter=(landlock > 0 or own or bwrap) and facts.filter,
        users=users,
        view=users and views and not bwrap,
        root=facts.root and not users,
        network=own,
        bwrap=bwrap,
        any_port=one_user and not own and landlock >= NET_ABI,
    )


@dataclass(frozen=True)
class Promises:
    """What holds; the meaning of each is that of the backend's ``Properties``."""

    files: bool
    processes: bool
    network: bool

    @property
    def several_users(self) -> bool:
        """Whether different people's workspaces may be side by side."""
        return self.files and self.processes


def promises(tier: Tier) -> Promises:
    """What may be relied on. As root nothing may: a Docker engine's socket alone would be enough to get out.

    >>> promises(Tier(landlock=7, filter=True))
    Promises(files=True, processes=True, network=True)
    >>> promises(Tier(landlock=7, filter=True, root=True)).several_users
    False
    """
    if tier.root:
        return Promises(False, False, False)
    return Promises(
        files=tier.users or tier.bwrap or tier.landlock >= TRUNCATE_ABI,
        processes=tier.users or tier.bwrap or tier.landlock >= SCOPE_ABI,
        network=tier.network or (tier.ports and tier.filter),
    )


def why_not(wish: Wish, facts: Facts) -> str:
    """Why workspaces are not kept apart here, as a clause.

    >>> why_not(Wish.AUTO, Facts(abi=7, root=True, users=True, closed=("/root",)))
    'as root, a user per session cannot pass /root, and mounting is not allowed here'
    """
    if wish is Wish.NONE:
        return f"{OPTION}=none was asked for"
    if not facts.root:
        return f"this kernel offers Landlock {facts.abi}, and {SCOPE_ABI} is needed without root"
    if not facts.users:
        return "root may not become other users here"
    if facts.unreadable:
        return f"as root, a user per session cannot read {facts.unreadable[0]}"
    return f"as root, a user per session cannot pass {facts.closed[0]}, and mounting is not allowed here"


EVERYTHING = "everything that this user may do: files, processes and ports of all workspaces and of the host"
ROOT = "everything that root can get at by way of services, such as a Docker engine's socket"
TCP = "TCP ports of other workspaces and of this host"
WELL_KNOWN = "this host's own TCP services on the ports that outgoing connections may use (80, 443 and some)"
OUTSIDE = (
    "every machine and container that this host can reach, and this host on addresses that it gets later"
)
NAMES = "names of all workspaces' files, because the data directory lies in this project's source directory"
UDP = "UDP on loopback"
COMMAND_LINES = "other processes' command lines in /proc; put no secret there"
ABSTRACT = "abstract Unix sockets of other workspaces"
SIGNALS = "signals to other workspaces' processes"
UNIX = "Unix sockets by path, where their mode lets this user connect: of other workspaces, and of the host"
SETTINGS = "modes, times and sizes of files whose names are known; priorities and limits of processes"
TERMINALS = "this user's other terminals in /dev/pts"
OPEN_MODES = "Unix sockets by path, and System V memory, of others who opened them to everybody"
RESOURCES = "processor time, memory and disk: nothing is limited"


def left_open(tier: Tier) -> tuple[str, ...]:
    """What stays within reach, one clause each, the worst first."""
    if not tier.anything:
        return (EVERYTHING, RESOURCES)
    same_user = not (tier.users or tier.bwrap)
    table = (
        (tier.root, ROOT),
        (not (tier.network or (tier.ports and tier.filter)), TCP),
        (same_user and tier.landlock < SCOPE_ABI, SIGNALS),
        (tier.landlock < SCOPE_ABI and not tier.network, ABSTRACT),
        (same_user, UNIX),
        (same_user, TERMINALS),
        (same_user, SETTINGS),
        (tier.users and not tier.bwrap, OPEN_MODES),
        (tier.ports and tier.filter, WELL_KNOWN),
        (tier.network, OUTSIDE),
        (not tier.network, UDP),
        (not tier.own_processes, COMMAND_LINES),
        (True, RESOURCES),
    )
    return tuple(clause for holds, clause in table if holds)
