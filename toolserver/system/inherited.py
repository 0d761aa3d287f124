"""Signals as the daemon was given them: what its starter ignored or blocked is not handed on to commands.

``nohup`` ignores SIGHUP, a script that ends a line with ``&`` ignores SIGINT and SIGQUIT, and whatever is
ignored or blocked stays so in every program that is started from there: no command could be asked to end by
these. A signal that is caught, though, is itself again in a program that is started. So what was ignored is
caught, and nothing done; for the daemon that is the same.
"""

from __future__ import annotations

import signal

_LEFT_ALONE = {
    # Ignored by this interpreter for its own sake; ``spawn`` gives programs the default.
    signal.SIGPIPE,
    signal.SIGXFSZ,
    # Caught, these would have a write to a terminal tried for ever.
    signal.SIGTTIN,
    signal.SIGTTOU,
}


def hand_no_signals_on() -> None:
    """Catch what is ignored and unblock what is blocked. Main thread, before any other thread is started."""
    for number in signal.valid_signals() - _LEFT_ALONE:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
