"""What agents must know, put into a session's home on this host before anything starts there."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.isolation.identity import Identity
from orchestrator.plan import GuestProfile, LaunchPlan
from orchestrator.trust import provision


def provision_home(plan: LaunchPlan | None, home: Path, root: Path, identity: Identity | None) -> None:
    """Place the agents' files below ``home``, where the plan has any. Blocks.

    Raises Conflict for one that is not what it should be, InvalidRequest for a path that no plan takes.
    """
    if plan is not None and plan.trust_agents:
        provision(plan.at(local_profile(home, root, identity)).workspace_plan, home)


def local_profile(home: Path, root: Path, identity: Identity | None) -> GuestProfile:
    """A session on this host as a place for a plan: its own directories, and whom it runs as.

    >>> local_profile(Path("/d/.s/home"), Path("/d/s"), Identity(7, 8))
    GuestProfile(guest_home='/d/.s/home', workspace='/d/s', owner='7:7')
    """
    uid, gid = (identity.uid, identity.uid) if identity else (os.geteuid(), os.getegid())
    return GuestProfile(str(home), str(root), f"{uid}:{gid}")
