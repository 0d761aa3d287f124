"""Tenants apart without containers: what the host's kernel offers, chosen, told as data, applied at a start.

    tiers.py      facts about the host and a wish -> Tier -> what holds and what stays open   (pure)
    probe.py      the facts, looked up
    reach.py      what a sandbox has to reach: paths and ports
    identity.py   a user per session: ids, owners and modes of its directories
    sandbox.py    one sandbox, and the files written for it
    orders.py     what the launcher is told about it
    isolation.py  these put together, for a backend
    bubblewrap.py the command line of bubblewrap
    launcher.py   the program that ties itself down and becomes the daemon; with it, in its process:
                  kernel.py landlock.py seccomp.py view.py network.py
    nursery.py    the program that has loaded the daemon and forks it; each fork does as the launcher does
    appearance.py what /proc tells of such a fork

The launcher starts before every daemon, so what it imports is chosen by its cost: no json, enum, typing or
dataclasses there (12 ms more).
"""
