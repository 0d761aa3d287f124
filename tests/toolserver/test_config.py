"""What the daemon is told: a flag wins over its variable, and all wrong values are told at once."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from protocol.limits import Limits
from toolserver.config import SETTINGS, VARIABLES, Config, ConfigError

TOKEN = "0123456789abcdef"


def problems(environ: dict[str, str], *flags: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.read(environ, flags)
    return caught.value.problems


def test_the_defaults_are_the_published_ones() -> None:
    config = Config.read({})
    assert (config.host, config.port, config.dev_port) == ("127.0.0.1", 3001, 4321)
    assert (config.root, config.token, config.session_id) == (Path("/app"), None, None)
    assert config.limits == Limits()


def test_the_state_directory_lies_beside_the_root() -> None:
    assert Config.read({"WORKSPACE_ROOT": "/srv/w/x"}).state_dir == Path("/srv/w/.x.toolserver")


def test_every_variable_is_read() -> None:
    config = Config.read(
        {
            "TOOL_SERVER_HOST": "::1",
            "TOOL_SERVER_PORT": "0",
            "WORKSPACE_ROOT": "/w",
            "TOOL_SERVER_STATE_DIR": "/s",
            "DEV_SERVER_PORT": "8000",
            "EXTRA_CA_BUNDLE": "/ca.pem",
            "TOOL_SERVER_TOKEN": TOKEN,
            "SESSION_ID": "s1",
            "TOOL_SERVER_MAX_READ_BYTES": "7",
        }
    )
    assert (config.host, config.port, config.root, config.state_dir) == ("::1", 0, Path("/w"), Path("/s"))
    assert (config.dev_port, config.extra_ca_bundle) == (8000, Path("/ca.pem"))
    assert (config.token, config.session_id, config.limits.max_read_bytes) == (TOKEN, "s1", 7)


def test_keys_hosts_and_origins_are_lists_with_commas() -> None:
    keys = [base64.b64encode(bytes([each]) * 32).decode() for each in range(2)]
    config = Config.read(
        {
            "TOOL_SERVER_PUBLIC_KEY": ", ".join(keys),
            "TOOL_SERVER_ALLOWED_HOSTS": "WS.example, .of.example",
            "TOOL_SERVER_ALLOWED_ORIGINS": "https://app.example:8443,http://[::1]:5173",
            "TOOL_SERVER_HOST": "0.0.0.0",
        }
    )
    assert config.public_keys == (bytes(32), b"\x01" * 32)
    assert config.allowed_hosts == {"ws.example", ".of.example"}
    assert config.allowed_origins == {"https://app.example:8443", "http://[::1]:5173"}
    assert config.guarded


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TOOL_SERVER_ALLOWED_HOSTS", "*"),
        ("TOOL_SERVER_ALLOWED_HOSTS", "a.example:80"),
        ("TOOL_SERVER_ALLOWED_HOSTS", "a,,b"),
        ("TOOL_SERVER_ALLOWED_ORIGINS", "*"),
        ("TOOL_SERVER_ALLOWED_ORIGINS", "null"),
        ("TOOL_SERVER_ALLOWED_ORIGINS", "https://a.example/"),
        ("TOOL_SERVER_ALLOWED_ORIGINS", "https://*.example"),
        ("TOOL_SERVER_PUBLIC_KEY", ","),
        ("TOOL_SERVER_PUBLIC_KEY", base64.b64encode(bytes(31)).decode()),
        ("SESSION_ID", "a\tb"),
        ("SESSION_ID", "x" * 201),
    ],
)
def test_a_list_that_would_let_in_too_many_is_refused(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable} must be "):
        Config.read({variable: text})


def test_a_flag_wins_over_its_variable() -> None:
    config = Config.read(
        {"TOOL_SERVER_PORT": "1"}, ["--port", "2", "--workspace-root", "/w", "--token", TOKEN]
    )
    assert (config.port, config.root, config.token) == (2, Path("/w"), TOKEN)


def test_an_empty_variable_is_an_absent_one() -> None:
    assert Config.read({"TOOL_SERVER_PORT": "", "TOOL_SERVER_TOKEN": ""}).token is None


def test_every_setting_has_a_flag() -> None:
    assert [setting.flag for setting in SETTINGS[:3]] == ["--host", "--port", "--workspace-root"]


def test_all_wrong_values_are_told_at_once() -> None:
    told = problems(
        {
            "TOOL_SERVER_PORT": "70000",
            "DEV_SERVER_PORT": "web",
            "WORKSPACE_ROOT": "app",
            "TOOL_SERVER_TOKEN": "short secret",
            "TOOL_SERVER_MAX_READ_BYTES": "0",
            "TOOL_SERVER_PUBLIC_KEY": "abc",
        }
    )
    assert told == [
        "TOOL_SERVER_PORT must be a number from 0 to 65535, not '70000'",
        "WORKSPACE_ROOT must be an absolute path, not 'app'",
        "DEV_SERVER_PORT must be a number from 0 to 65535, not 'web'",
        "TOOL_SERVER_TOKEN must be at least 16 ASCII characters without spaces",
        "TOOL_SERVER_PUBLIC_KEY must be Ed25519 public keys, 32 bytes each in base64, with commas between, "
        "not 'abc'",
        "TOOL_SERVER_MAX_READ_BYTES must be a number above 0, not '0'",
    ]


@pytest.mark.parametrize("port", ["-1", "1.5", "0x10", "65536", "\u00b2", "\u0661"])
def test_a_port_is_a_plain_number(port: str) -> None:
    assert len(problems({"TOOL_SERVER_PORT": port})) == 1


def test_a_token_is_never_repeated() -> None:
    assert "hunter2" not in "".join(problems({"TOOL_SERVER_TOKEN": "hunter2"}))
    assert TOKEN not in repr(Config.read({"TOOL_SERVER_TOKEN": TOKEN}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])
def test_a_door_open_to_others_needs_a_token(host: str) -> None:
    assert problems({"TOOL_SERVER_HOST": host}) == [
        f"TOOL_SERVER_HOST is {host!r}, which others can reach, and no token is set: "
        "set TOOL_SERVER_TOKEN or TOOL_SERVER_PUBLIC_KEY, or bind 127.0.0.1"
    ]
    assert Config.read({"TOOL_SERVER_HOST": host, "TOOL_SERVER_TOKEN": TOKEN}).host == host


def test_the_digest_of_a_token_stands_for_it() -> None:
    digest = "9f" * 32
    config = Config.read({"TOOL_SERVER_HOST": "0.0.0.0", "TOOL_SERVER_TOKEN_SHA256": digest})
    assert (config.token, config.token_sha256, config.guarded) == (None, digest, True)
    assert not Config.read({}).guarded
    for wrong in ("9f", "9F" * 32, "9f" * 33, TOKEN):
        assert problems({"TOOL_SERVER_TOKEN_SHA256": wrong}) == [
            f"TOOL_SERVER_TOKEN_SHA256 must be a SHA-256 as 64 lower case hexadecimal digits, not {wrong!r}"
        ]
    both = {"TOOL_SERVER_TOKEN": TOKEN, "TOOL_SERVER_TOKEN_SHA256": digest}
    assert problems(both) == ["TOOL_SERVER_TOKEN and TOOL_SERVER_TOKEN_SHA256 are both set: set one of them"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_no_token_is_needed(host: str) -> None:
    assert Config.read({"TOOL_SERVER_HOST": host}).loopback


@pytest.mark.parametrize("state", ["/w", "/w/state", "/w/../w/state"])
def test_the_state_directory_is_never_in_the_root(state: str) -> None:
    assert problems({"WORKSPACE_ROOT": "/w", "TOOL_SERVER_STATE_DIR": state}) == [
        f"TOOL_SERVER_STATE_DIR {os.path.normpath(state)!r} lies in the workspace root: choose one outside"
    ]


@pytest.mark.parametrize("root", ["/", "/w/.."])
def test_the_whole_machine_is_no_workspace(root: str) -> None:
    assert problems({"WORKSPACE_ROOT": root}) == [
        f"WORKSPACE_ROOT must name a directory below '/', not {root!r}"
    ]


def test_none_of_the_daemons_variables_reaches_a_command() -> None:
    assert {"TOOL_SERVER_TOKEN", "TOOL_SERVER_MAX_READ_BYTES", "SESSION_ID", "WORKSPACE_ROOT"} <= VARIABLES
    assert not {"PATH", "HOME", "PORT"} & VARIABLES


def test_an_unknown_flag_ends_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        Config.read({}, ["--prot", "1"])
    assert "unrecognized arguments: --prot 1" in capsys.readouterr().err
