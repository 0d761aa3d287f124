"""What of the host's environment a local sandbox gets to see."""

from __future__ import annotations

from pathlib import Path

from orchestrator.backends.environment import marker, sandbox_environment, search_path
from orchestrator.paths import SessionArea

AREA = SessionArea(Path("/d/.s"))


def of(host: dict[str, str]) -> dict[str, str]:
    return sandbox_environment(host, AREA, Path("/cache"), Path("/tools"), "s1")


def test_secrets_of_the_host_stay_there() -> None:
    secrets = dict.fromkeys(
        (
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "NPM_TOKEN",
            "npm_config__auth",
            "SSH_AUTH_SOCK",
            "CLAUDECODE",
        ),
        "x",
    )
    assert not secrets.keys() & of(secrets).keys()


def test_what_packages_need_to_be_installed_goes_along() -> None:
    host = {
        "https_proxy": "http://p",
        "NO_PROXY": "a",
        "SSL_CERT_FILE": "/ca",
        "NODE_EXTRA_CA_CERTS": "/ca",
        "NPM_CONFIG_REGISTRY": "http://r",
        "npm_config_cafile": "/ca",
        "LC_TIME": "C",
        "TZ": "UTC",
    }
    assert host.items() <= of(host).items()


def test_home_and_scratch_are_the_sessions_own() -> None:
    env = of({"HOME": "/root", "TMPDIR": "/tmp", "npm_config_cache": "/root/.npm"})
    assert (env["HOME"], env["TMPDIR"], env["npm_config_cache"]) == ("/d/.s/home", "/d/.s/tmp", "/cache/npm")


def test_every_process_carries_the_session() -> None:
    assert "{}={}".format(*next(item for item in of({}).items() if "SESSION" in item[0])) == marker("s1")


def test_an_empty_host_path_still_finds_a_shell() -> None:
    assert "/bin" in search_path("", None).split(":")
