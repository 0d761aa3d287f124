"""What a sandbox has to reach: the system to read, its own directories to write, the ports to talk on.

The list is made, not searched for: what is not on it is out of reach. The data directory must never be below
something that may be read whole, so such a directory is given child by child, without the way to the data.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

SYSTEM = tuple("/usr /bin /sbin /lib /lib32 /lib64 /libx32 /etc /opt /nix/store /sys".split())
"""To be read and run. Not /var, /run, /home, /root, /srv, /mnt."""
DEVICES = tuple(f"/dev/{name}" for name in "null zero full random urandom tty ptmx pts".split())
RESOLVER = "/etc/resolv.conf"
"""Often a link into /run."""

OUTGOING = frozenset((22, 53, 80, 443, 9418))
"""TCP ports that every workspace may connect to, at any address: ssh, DNS, HTTP, HTTPS, git. Landlock knows
ports only, so these are open on this host as well, and no workspace may listen on them."""

LENT_VARIABLE = "WORKSPACE_HOST_PORTS"
"""Ports of services on this host's loopback that workspaces may use, such as a database's."""

_CERTIFICATES = frozenset(
    "node_extra_ca_certs ssl_cert_file ssl_cert_dir requests_ca_bundle curl_ca_bundle git_ssl_cainfo "
    "pip_cert extra_ca_bundle npm_config_cafile".split()
)
_ADDRESSES = frozenset(
    "http_proxy https_proxy all_proxy npm_config_proxy npm_config_https_proxy npm_config_registry "
    "corepack_npm_registry".split()
)


def outgoing_ports(environ: Mapping[str, str]) -> frozenset[int]:
    """OUTGOING, and the ports of the proxies and of the package registry that the host's environment names.

    >>> sorted(outgoing_ports({"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "x:1"}) - OUTGOING)
    [3128]
    """
    values = (value for name, value in environ.items() if name.lower() in _ADDRESSES)
    return OUTGOING | lent_ports(environ) | {port for port in map(_port, values) if port}


def lent_ports(environ: Mapping[str, str]) -> frozenset[int]:
    """Ports of this host's loopback that every workspace may connect to: of a proxy or a package registry
    that the environment names there, and those that the operator lends. Raises ValueError for what is none.

    >>> sorted(lent_ports({"HTTPS_PROXY": "http://localhost:3128", "all_proxy": "http://proxy:1",
    ...                    "WORKSPACE_HOST_PORTS": "5432, 6379"}))
    [3128, 5432, 6379]
    """
    values = [value for name, value in environ.items() if name.lower() in _ADDRESSES]
    named = {_port(value) for value in values if is_loopback(_host(value))}
    words = environ.get(LENT_VARIABLE, "").replace(",", " ").split()
    if not all(word.isascii() and word.isdecimal() and 0 < int(word) < 65536 for word in words):
        raise ValueError(
            f"{LENT_VARIABLE} is {' '.join(words)!r}; it has to be a list of ports such as 5432,6379"
        )
    return frozenset({port for port in named if port} | {*map(int, words)})


def named_hosts(environ: Mapping[str, str]) -> frozenset[str]:
    """The hosts of the proxies and of the package registry that the environment names.

    >>> sorted(named_hosts({"HTTPS_PROXY": "http://172.17.0.1:3128", "HOME": "http://x"}))
    ['172.17.0.1']
    """
    return frozenset(_host(value) for name, value in environ.items() if name.lower() in _ADDRESSES)


def is_loopback(host: str) -> bool:
    """
    >>> [is_loopback(host) for host in ("localhost", "127.0.0.53", "::1", "10.0.0.1", "proxy", "")]
    [True, True, True, False, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def has_loopback_resolver(configuration: str) -> bool:
    """Whether names are resolved by this host itself, out of the text of resolv.conf.

    >>> has_loopback_resolver("nameserver 127.0.0.53\\noptions edns0\\n")
    True
    >>> has_loopback_resolver("nameserver 10.0.0.1\\nnameserver 127.0.0.1\\n")
    False
    """
    found = [
        words[1]
        for words in map(str.split, configuration.splitlines())
        if words[:1] == ["nameserver"] and words[1:]
    ]
    return is_loopback(found[0]) if found else True


def resolver_at(address: str, configuration: str) -> str:
    """The same resolv.conf with one name server, at ``address``.

    >>> resolver_at("169.254.1.1", "nameserver 127.0.0.53\\nsearch example.org\\n")
    'nameserver 169.254.1.1\\nsearch example.org\\n'
    """
    kept = (line for line in configuration.splitlines() if line.split()[:1] != ["nameserver"])
    return "\n".join([f"nameserver {address}", *kept]) + "\n"


def host_addresses(trie: str, if_inet6: str) -> list[str]:
    """The addresses of this host that others could reach, out of /proc/net/fib_trie and /proc/net/if_inet6.

    >>> host_addresses("|-- 10.0.0.2\\n /32 host LOCAL\\n |-- 127.0.0.1\\n /32 host LOCAL", "")
    ['10.0.0.2']
    >>> host_addresses("", "fd000000000000000000000000000002 04 40 00 80 eth0")
    ['fd00::2']
    """
    lines = [line.strip() for line in trie.splitlines()]
    four = {
        a.split()[-1] for a, b in itertools.pairwise(lines) if b == "/32 host LOCAL" and a.startswith("|--")
    }
    six = {
        str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in if_inet6.splitlines() if line.strip()
    }
    return sorted(address for address in four | six if not is_loopback(address))


def certificates(environ: Mapping[str, str]) -> list[Path]:
    """The CA files that the host's environment names."""
    return [Path(value) for name, value in environ.items() if name.lower() in _CERTIFICATES and value]


def python_needs() -> list[Path]:
    """Where this Python, its libraries and the daemon's packages are."""
    programs = [link.parent for link in links(Path(sys.executable))]
    return distinct([Path(sys.prefix), Path(sys.base_prefix), *package_directories(), *programs])


def package_directories() -> list[Path]:
    """The daemon's packages; an import of them also lists the directory above."""
    specs = (importlib.util.find_spec(name) for name in ("toolserver", "protocol"))
    return [Path(place) for spec in specs if spec for place in spec.submodule_search_locations or ()]


def tool_needs(tools: Path | None) -> list[Path]:
    """What the links in the tools directory lead to: a program's directory, and the libraries beside that.

    Not the whole prefix: it may be somebody's home.
    """
    if tools is None or not tools.is_dir():
        return []
    found: list[Path] = []
    for link in tools.iterdir():
        for program in links(link)[1:]:
            beside = program.parent.parent / "lib" if program.parent.name == "bin" else program.parent
            found += [program.parent, beside, _npm_package(program)]
    return distinct(path for path in found if path.is_dir())


def links(path: Path) -> list[Path]:
    """``path``, and what it leads to link by link.

    >>> links(Path("/nothing/here"))
    [PosixPath('/nothing/here')]
    """
    found = [path]
    while found[-1].is_symlink() and len(found) < 20:
        found.append(Path(os.path.normpath(found[-1].parent / found[-1].readlink())))
    real = path.resolve()
    return found if real in found else [*found, real]


def search_path(value: str, allowed: Iterable[Path]) -> str:
    """The directories of a PATH that are within reach; in others a program would be found and then refused.

    >>> search_path("/home/u/bin:/usr/bin:/usrx", [Path("/usr")])
    '/usr/bin'
    """
    roots = [*allowed]
    return ":".join(each for each in value.split(":") if any(Path(each).is_relative_to(r) for r in roots))


def carved(root: Path, hole: Path) -> Iterator[Path]:
    """``root``, or when ``hole`` is below it all that is in it and not on the way to ``hole``.

    >>> list(carved(Path("/usr"), Path("/data")))
    [PosixPath('/usr')]
    >>> list(carved(Path("/data/x"), Path("/data")))
    []
    """
    if root.is_relative_to(hole):
        return
    if not hole.is_relative_to(root):
        yield root
        return
    for entry in _entries(root):
        if not entry.is_symlink():
            yield from carved(entry, hole)


def distinct(paths: Iterable[Path]) -> list[Path]:
    """Without those that lie below another one.

    >>> distinct([Path("/a/b"), Path("/a"), Path("/c"), Path("/a")])
    [PosixPath('/a'), PosixPath('/c')]
    """
    found: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except PermissionError:
        return []


def _npm_package(program: Path) -> Path:
    # .../node_modules/npm/bin/npm-cli.js needs all of .../node_modules/npm.
    above = program.parent.parent
    return above if above.parent.name == "node_modules" else program.parent


def _port(address: str) -> int | None:
    try:
        return urlsplit(address if "//" in address else f"//{address}").port
    except ValueError:
        return None


def _host(address: str) -> str:
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return ""
