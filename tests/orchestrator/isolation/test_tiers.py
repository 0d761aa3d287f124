"""From a host's facts to a tier, to promises: the table, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.isolation.tiers import (
    ABSTRACT,
    COMMAND_LINES,
    EVERYTHING,
    OUTSIDE,
    RESOURCES,
    ROOT,
    TCP,
    UDP,
    Facts,
    Network,
    Promises,
    Tier,
    Wish,
    decide,
    left_open,
    promises,
    why_not,
)
from protocol.errors import Unavailable


def root(abi: int = 0, **more: Any) -> Facts:
    """A host where root may do everything."""
    return Facts(abi, filter=True, root=True, users=True, views=True, **more)


FULL = Tier(landlock=7, filter=True, users=True, view=True)

TABLE = [
    (Wish.NONE, Facts(abi=7, filter=True), Tier()),
    (Wish.NONE, root(7), Tier(root=True)),
    (Wish.AUTO, root(7), FULL),
    (Wish.AUTO, root(7, closed=("/root",)), FULL),
    (Wish.AUTO, Facts(abi=7, filter=True), Tier(landlock=7, filter=True)),
    (Wish.AUTO, Facts(abi=7), Tier(landlock=7)),
    (Wish.AUTO, Facts(filter=True), Tier()),
    (Wish.AUTO, Facts(abi=1, filter=True), Tier()),
    (Wish.AUTO, root(), Tier(users=True)),
    (Wish.AUTO, root(closed=("/root",)), Tier(root=True)),
    (Wish.AUTO, root(7, unreadable=("/x",)), Tier(landlock=7, filter=True, root=True)),
    (Wish.AUTO, Facts(abi=7, root=True, users=True), Tier(landlock=7, users=True)),
    (Wish.AUTO, Facts(abi=7, root=True, users=True, closed=("/root",)), Tier(landlock=7, root=True)),
    (Wish.AUTO, Facts(abi=7, root=True, views=True), Tier(landlock=7, root=True)),
    (Wish.LANDLOCK, Facts(abi=2), Tier(landlock=2)),
    (Wish.LANDLOCK, root(7), FULL),
]


@pytest.mark.parametrize(("wish", "facts", "tier"), TABLE)
def test_the_tier_follows_from_wish_and_facts(wish: Wish, facts: Facts, tier: Tier) -> None:
    assert decide(wish, facts) == tier


@pytest.mark.parametrize("abi", [0, 1])
def test_landlock_that_was_asked_for_and_is_not_there_stops_the_start(abi: int) -> None:
    with pytest.raises(Unavailable, match=r"this host offers no Landlock .* set WORKSPACE_ISOLATION=auto"):
        decide(Wish.LANDLOCK, root(abi))


def test_bubblewrap_that_is_not_there_is_refused_with_the_way_out() -> None:
    with pytest.raises(Unavailable, match="not to be had: no bwrap here; or set WORKSPACE_ISOLATION=auto"):
        decide(Wish.BWRAP, root(7, no_bwrap="no bwrap here"))


def test_a_network_that_was_asked_for_and_cannot_be_had_stops_the_start() -> None:
    with pytest.raises(Unavailable, match="of its own: no pasta here; or set WORKSPACE_NETWORK=auto"):
        decide(Wish.AUTO, root(7, no_network="no pasta here"), Network.OWN)


@pytest.mark.parametrize(
    ("network", "facts", "own"),
    [
        (Network.AUTO, root(7, no_network=""), True),
        (Network.OWN, root(7, no_network=""), True),
        (Network.SHARED, root(7, no_network=""), False),
        (Network.AUTO, root(7), False),
        (Network.AUTO, Facts(filter=True, no_network=""), True),
    ],
)
def test_a_network_of_its_own_takes_the_place_of_rules_on_ports(
    network: Network, facts: Facts, own: bool
) -> None:
    tier = decide(Wish.AUTO, facts, network)
    assert tier.network == own
    assert tier.ports == (not own)
    assert promises(tier).network


def test_one_user_alone_needs_no_rules_on_ports_and_is_promised_none() -> None:
    tier = decide(Wish.AUTO, root(7), one_user=True)
    assert (tier.any_port, tier.ports, promises(tier).network) == (True, False, False)
    assert TCP in left_open(tier)
    assert not decide(Wish.AUTO, root(7, no_network=""), one_user=True).any_port


def test_bubblewrap_closes_more_than_a_view_and_needs_no_open_way() -> None:
    tier = decide(Wish.BWRAP, root(7, closed=("/root",), no_bwrap="", no_network=""))
    assert (tier.bwrap, tier.users, tier.view, tier.network) == (True, True, False, True)
    assert left_open(tier) == (OUTSIDE, RESOURCES)
    assert left_open(decide(Wish.BWRAP, Facts(filter=True, no_bwrap=""))) == (
        TCP,
        ABSTRACT,
        UDP,
        RESOURCES,
    )


@pytest.mark.parametrize(
    ("tier", "holds"),
    [
        (Tier(), (False, False, False)),
        (Tier(landlock=2), (False, False, False)),
        (Tier(landlock=3), (True, False, False)),
        (Tier(landlock=4, filter=True), (True, False, True)),
        (Tier(landlock=6, filter=False), (True, True, False)),
        (Tier(landlock=6, filter=True), (True, True, True)),
        (Tier(users=True), (True, True, False)),
        (FULL, (True, True, True)),
        (Tier(landlock=7, filter=True, root=True), (False, False, False)),
    ],
)
def test_a_promise_is_made_only_where_all_that_it_needs_is_there(
    tier: Tier, holds: tuple[bool, bool, bool]
) -> None:
    assert promises(tier) == Promises(*holds)


def test_several_users_need_files_and_processes_apart() -> None:
    assert promises(FULL).several_users
    assert not promises(Tier(landlock=5, filter=True)).several_users


def test_what_is_left_open_shrinks_with_the_tier() -> None:
    assert left_open(Tier())[0] == EVERYTHING
    assert left_open(Tier(landlock=7, filter=True, root=True))[0] == ROOT
    assert TCP in left_open(Tier(landlock=7))
    assert COMMAND_LINES in left_open(Tier(landlock=7, filter=True))
    assert UDP in left_open(FULL)
    assert not {TCP, COMMAND_LINES, ROOT} & {*left_open(FULL)}


@pytest.mark.parametrize(
    ("wish", "facts", "clause"),
    [
        (Wish.NONE, Facts(abi=7), "WORKSPACE_ISOLATION=none was asked for"),
        (Wish.AUTO, Facts(abi=5), "this kernel offers Landlock 5, and 6 is needed without root"),
        (Wish.AUTO, Facts(abi=7, root=True), "root may not become other users here"),
        (Wish.AUTO, root(unreadable=("/x",)), "a user per session cannot read /x"),
        (Wish.AUTO, root(closed=("/root",)), "a user per session cannot pass /root"),
    ],
)
def test_the_reason_why_nothing_keeps_users_apart_is_named(wish: Wish, facts: Facts, clause: str) -> None:
    assert clause in why_not(wish, facts)
