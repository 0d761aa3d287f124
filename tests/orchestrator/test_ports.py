"""Which port a sandbox gets."""

from __future__ import annotations

import socket

import pytest

from orchestrator.ports import DEV_PORTS, Wish, choose, is_free
from protocol.errors import Busy
from tests.ports import free_port


def test_the_wished_port_is_taken_when_it_is_free() -> None:
    assert choose(Wish(4321, DEV_PORTS), set(), lambda port: True) == 4321


def test_a_port_promised_to_another_session_is_not_given_again() -> None:
    assert choose(Wish(4321, DEV_PORTS), {4321, 8000, 8001}, lambda port: True) == 8002


def test_exhaustion_names_the_range_and_the_way_out() -> None:
    with pytest.raises(Busy, match=r"port 4321 and all from 8000 to 8100 are taken.*--dev-port") as caught:
        choose(Wish(4321, DEV_PORTS), set(), lambda port: False, "--dev-port")
    assert caught.value.details == {"port": 4321, "first": 8000, "last": 8100}


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_somebody_listens_on_is_not_free(address: str) -> None:
    port = free_port()
    with socket.create_server((address, port)):
        assert not is_free(port)
    assert is_free(port)


def test_a_port_taken_on_ipv6_alone_is_not_free() -> None:
    # A browser that asks for localhost would get the other program's page.
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        assert not is_free(listener.getsockname()[1])
