"""What the daemon is told at its start, out of the environment and flags, checked whole.

Nothing here reads ``os.environ``: ``__main__`` hands it in. All wrong values are reported at once.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from protocol import __version__
from protocol.limits import Limits
from protocol.routes import DEFAULT_DEV_PORT, DEFAULT_PORT
from protocol.tokens import public_key
from toolserver.system import domain
from toolserver.system.domain import User, Wish


class ConfigError(Exception):
    """Every wrong value, one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Config:
    """A checked configuration. Made by ``Config.read`` only."""

    host: str
    port: int
    """0 means any free one."""
    root: Path
    """The workspace root, absolute."""
    state_dir: Path
    """The daemon's own area, outside the root and best on the same file system."""
    dev_port: int
    extra_ca_bundle: Path | None = None
    token: str | None = field(default=None, repr=False)
    token_sha256: str | None = None
    """Instead of the token, what it is known by: 64 hexadecimal digits."""
    public_keys: tuple[bytes, ...] = ()
    """Ed25519: a token signed by one of them is taken."""
    session_id: str | None = None
    """None with a public key: it is bound to one later."""
    store_dir: Path | None = None
    """The dependency store of the workspace's owner; without it, none is filled."""
    shared_stores: tuple[Path, ...] = ()
    """Dependency stores of the host, which are only read."""
    allowed_origins: frozenset[str] = frozenset()
    """Pages of these may ask, besides those that come from here: ``https://app.example``."""
    allowed_hosts: frozenset[str] = frozenset()
    """Names that this machine is called by; with a dot in front, all names below one."""
    listen_fd: int | None = None
    """A socket that listens already, inherited: then ``host`` and ``port`` only say where."""
    separation: Wish = Wish.AUTO
    """What commands are to be kept from; see ``system.domain``."""
    command_user: User | None = None
    """Whom commands run as; None for whom the daemon runs as."""
    reach: tuple[Path, ...] = ()
    """What commands need although the directories above it cannot be listed."""
    limits: Limits = Limits()

    @property
    def guarded(self) -> bool:
        """Whether a token is asked for."""
        return bool(self.token or self.token_sha256 or self.public_keys)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.host)

    @classmethod
    def read(cls, environ: Mapping[str, str], argv: Sequence[str] = ()) -> Config:
        """The configuration; a flag wins over its variable. Raises ConfigError naming every wrong value."""
        given = {name: value for name in _NAMES if (value := environ.get(name)) not in (None, "")}
        given |= {
            name: value for name, value in vars(_parser().parse_args(argv)).items() if value is not None
        }
        problems: list[str] = []
        values = {
            setting.field: _parsed(setting, given[setting.variable], problems)
            for setting in SETTINGS
            if setting.variable in given
        }
        limits = _limits(given, problems)
        if problems:
            raise ConfigError(problems)
        return _complete(values, limits)


@dataclass(frozen=True)
class Setting:
    """One variable, and the flag of the same meaning."""

    variable: str
    field: str
    parse: Callable[[str], Any]
    help: str

    @property
    def flag(self) -> str:
        """``--port`` for TOOL_SERVER_PORT."""
        return "--" + self.variable.removeprefix("TOOL_SERVER_").lower().replace("_", "-")


_NUMBER = re.compile(r"[0-9]{1,18}")
_DECIMAL = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")
_NAME = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_ORIGIN = re.compile(rf"[a-z][a-z0-9+.-]*://(?:{_NAME}|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_HOST = re.compile(rf"\.?{_NAME}")


def _port(text: str) -> int:
    port = int(text) if _NUMBER.fullmatch(text) else -1
    if not 0 <= port <= 65535:
        raise ValueError("must be a number from 0 to 65535")
    return port


def _descriptor(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) < 3:
        raise ValueError("must be the number of a descriptor, 3 or more")
    return int(text)


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return Path(os.path.normpath(path))


def _root(text: str) -> Path:
    path = _absolute(text)
    if path == path.parent:
        raise ValueError("must name a directory below '/'")
    return path


def _several(text: str) -> tuple[Path, ...]:
    return tuple(_absolute(each) for each in text.split(":") if each)


def _token(text: str) -> str:
    if len(text) < 16 or not text.isascii() or any(char.isspace() for char in text):
        raise ValueError("must be at least 16 ASCII characters without spaces")
    return text


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("must be a SHA-256 as 64 lower case hexadecimal digits")
    return text


def _separation(text: str) -> Wish:
    known = [wish.value for wish in Wish]
    if text not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return Wish(text)


def _user(text: str) -> User:
    """
    >>> _user("1000"), _user("1000:100")
    (User(uid=1000, gid=1000), User(uid=1000, gid=100))
    """
    found = re.fullmatch(r"([1-9][0-9]{0,9})(?::([1-9][0-9]{0,9}))?", text)
    numbers = [int(each) for each in found.groups(found[1])] if found else [2**32]
    if max(numbers) >= 2**32 - 1:
        raise ValueError("must be the numbers of a user and of a group, as in 1000:1000, and not root's")
    return User(*numbers)


def _public_keys(text: str) -> tuple[bytes, ...]:
    return tuple(public_key(each) for each in text.split(","))


def _session(text: str) -> str:
    if len(text) > 200 or not text.isascii() or not text.isprintable():
        raise ValueError("must be at most 200 printable ASCII characters")
    return text


def _origins(text: str) -> frozenset[str]:
    origins = frozenset(part.strip() for part in text.split(","))
    if not all(_ORIGIN.fullmatch(each) for each in origins):
        raise ValueError(
            "must be origins as browsers write them, with commas between: https://app.example:8443"
        )
    return origins


def _hosts(text: str) -> frozenset[str]:
    hosts = frozenset(part.strip().lower() for part in text.split(","))
    if not all(_HOST.fullmatch(each) for each in hosts):
        raise ValueError(
            "must be names without a port, with commas between: ws.example, or .example for all below"
        )
    return hosts


SETTINGS = (
    Setting("TOOL_SERVER_HOST", "host", str, "address to bind (127.0.0.1)"),
    Setting("TOOL_SERVER_PORT", "port", _port, f"port to bind, 0 for any free one ({DEFAULT_PORT})"),
    Setting("WORKSPACE_ROOT", "root", _root, "the workspace root (/app)"),
    Setting("TOOL_SERVER_STATE_DIR", "state_dir", _absolute, "the daemon's own area (beside the root)"),
    Setting("DEV_SERVER_PORT", "dev_port", _port, f"port given to dev servers ({DEFAULT_DEV_PORT})"),
    Setting("EXTRA_CA_BUNDLE", "extra_ca_bundle", _absolute, "a CA file for npm, git, curl and Python"),
    Setting("TOOL_SERVER_TOKEN", "token", _token, "a static bearer token"),
    Setting(
        "TOOL_SERVER_TOKEN_SHA256", "token_sha256", _sha256, "the digest of a random token, instead of itself"
    ),
    Setting(
        "TOOL_SERVER_PUBLIC_KEY",
        "public_keys",
        _public_keys,
        "Ed25519 keys that session tokens are signed by, base64, with commas between",
    ),
    Setting("SESSION_ID", "session_id", _session, "the session this daemon belongs to"),
    Setting(
        "TOOL_SERVER_ALLOWED_ORIGINS",
        "allowed_origins",
        _origins,
        "other pages that may ask, with commas between",
    ),
    Setting(
        "TOOL_SERVER_ALLOWED_HOSTS",
        "allowed_hosts",
        _hosts,
        "names that this machine is called by, and no other",
    ),
    Setting("TOOL_SERVER_STORE_DIR", "store_dir", _absolute, "the owner's dependency store, to be filled"),
    Setting("TOOL_SERVER_SHARED_STORE", "shared_stores", _several, "stores to read only, with : between"),
    Setting(
        domain.VARIABLE,
        "separation",
        _separation,
        "keep commands from the daemon: auto, or a tier",
    ),
    Setting(domain.USER_VARIABLE, "command_user", _user, "user that commands run as, when started by root"),
    Setting("TOOL_SERVER_REACH", "reach", _several, "what commands need below directories that nobody lists"),
    Setting("TOOL_SERVER_LISTEN_FD", "listen_fd", _descriptor, "an inherited socket that listens already"),
)

_LIMITS = {f"TOOL_SERVER_{name.upper()}": name for name in Limits.__struct_fields__}
_NAMES = (*(setting.variable for setting in SETTINGS), *_LIMITS)
_MAY_BE_ZERO = frozenset(
    (
        *(
            "command_nice",
            "max_spares",
            "max_workspace_bytes",
            "reserved_disk_bytes",
            "reserved_disk_entries",
        ),
        *("command_open_files", "command_processes", "command_memory_bytes", "command_cpu_seconds"),
        "command_cpus",
    )
)
_DECIMALS = frozenset(("command_cpus",))
VARIABLES = frozenset(_NAMES)
"""All variables that the daemon reads: none of them reaches a command."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolserver", description="The daemon of one workspace.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    for setting in SETTINGS:
        parser.add_argument(setting.flag, dest=setting.variable, help=f"{setting.help} [{setting.variable}]")
    for variable in _LIMITS:
        flag = "--" + variable.removeprefix("TOOL_SERVER_").lower().replace("_", "-")
        parser.add_argument(flag, dest=variable, help=argparse.SUPPRESS)
    return parser


def _parsed(setting: Setting, text: str, problems: list[str]) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        shown = "" if setting.field == "token" else f", not {text!r}"
        problems.append(f"{setting.variable} {error}{shown}")
        return None


def _limits(given: Mapping[str, str], problems: list[str]) -> Limits:
    changed: dict[str, float] = {}
    for variable, name in _LIMITS.items():
        text = given.get(variable)
        if text is None:
            continue
        if name in _DECIMALS and _DECIMAL.fullmatch(text):
            changed[name] = float(text)
        elif _NUMBER.fullmatch(text) and (int(text) > 0 or name in _MAY_BE_ZERO):
            changed[name] = int(text)
        else:
            what = "a number of processors, as 1.5," if name in _DECIMALS else "a number above 0,"
            problems.append(f"{variable} must be {what} not {text!r}")
    return msgspec.structs.replace(Limits(), **changed)


def _complete(values: dict[str, Any], limits: Limits) -> Config:
    root: Path = values.pop("root", Path("/app"))
    values.setdefault("host", "127.0.0.1")
    values.setdefault("port", DEFAULT_PORT)
    values.setdefault("dev_port", DEFAULT_DEV_PORT)
    values.setdefault("state_dir", root.with_name(f".{root.name}.toolserver"))
    config = Config(root=root, limits=limits, **values)
    problems = [*_two_tokens(config), *_open_door(config), *_state_inside_root(config), *_user_alone(config)]
    if problems:
        raise ConfigError(problems)
    return config


def _two_tokens(config: Config) -> list[str]:
    if not (config.token and config.token_sha256):
        return []
    return ["TOOL_SERVER_TOKEN and TOOL_SERVER_TOKEN_SHA256 are both set: set one of them"]


def _open_door(config: Config) -> list[str]:
    if config.guarded or config.loopback:
        return []
    return [
        f"TOOL_SERVER_HOST is {config.host!r}, which others can reach, and no token is set: "
        "set TOOL_SERVER_TOKEN or TOOL_SERVER_PUBLIC_KEY, or bind 127.0.0.1"
    ]


def _state_inside_root(config: Config) -> list[str]:
    if not config.state_dir.is_relative_to(config.root):
        return []
    return [f"TOOL_SERVER_STATE_DIR {str(config.state_dir)!r} lies in the workspace root: choose one outside"]


def _user_alone(config: Config) -> list[str]:
    if config.command_user is None or config.separation is not Wish.NONE:
        return []
    return [f"{domain.USER_VARIABLE} is set, and {domain.VARIABLE} is none: leave one of them out"]


def _is_loopback(host: str) -> bool:
    """
    >>> _is_loopback("127.0.0.1"), _is_loopback("localhost"), _is_loopback("0.0.0.0"), _is_loopback("::1")
    (True, True, False, True)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
