"""What is written to a kept bash: text only, nothing here reads, writes or waits.

Bash reads these lines as its script, one after the other, so a command stands in them as one quoted word
behind ``eval``: whatever is wrong with it, the line after it is read as it was meant. That next line tells
how the command ended. It holds a random word that lies unread in the pipe while the command runs, in no
variable, no environment and no descriptor of the command's: who does not know it cannot forge an end.

An interruption must end a command and keep the shell. Bash, without a terminal, would die of SIGINT; so a
real-time signal has a trap that leaves every loop and function and skips the commands that are left, up to
the line that tells the end. ``disarmed`` takes that back.
"""

from __future__ import annotations

import re
import signal

INTERRUPT = signal.SIGRTMAX - 5
"""Ends a command from within the shell. Of all signals one that no program has a use for."""

# A backslash in front, so that no alias is taken for it; and ``builtin``, so that no function is.
_BUILTIN = r"\builtin"
_LEAVE = f"{_BUILTIN} break 999 2>/dev/null; {_BUILTIN} return 130 2>/dev/null; {_BUILTIN} false"
_DISARM = "builtin trap - DEBUG"
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_REPLY = re.compile(rb"(?s)([0-9a-f]{16}) (\d{1,3}) (\S*) (.*)")


def quoted(text: str) -> str:
    """``text`` as one word of bash.

    >>> print(quoted("it's"))
    'it'\\''s'
    """
    return "'" + text.replace("'", "'\\''") + "'"


def word(path: str) -> str:
    """``path`` as one word, without quotes where it needs none: bash reads its script byte by byte.

    >>> word("/a/b-1"), word("/a b")
    ('/a/b-1', "'/a b'")
    """
    return path if _PLAIN.fullmatch(path) else quoted(path)


def opening(cwd: str, replies: str) -> bytes:
    """The first lines: how to be interrupted, and where to stand.

    ``replies`` is the path that ends are told to. SIGINT gets a trap that does nothing, because bash sends it
    to itself when a command substitution was ended by it.
    """
    ours = f'*"builtin printf "*{quoted(replies)}*|*"{_DISARM}"'
    skip = f'case "$BASH_COMMAND" in {ours});; *) {_LEAVE};; esac'
    trap = f"{_BUILTIN} shopt -s extdebug; {_BUILTIN} trap {quoted(skip)} DEBUG; {_LEAVE}"
    lines = (
        f"{_BUILTIN} trap {quoted(trap)} RTMAX-5",
        f"{_BUILTIN} trap : INT",
        f"{_BUILTIN} cd -- {quoted(cwd)}",
        f"{_BUILTIN} unset OLDPWD",
    )
    return ("\n".join(lines) + "\n").encode()


def command(text: str, status: int, stdin: str, stdout: str, stderr: str, told: bytes) -> bytes:
    """Run ``text`` after a command that ended with ``status``, on these paths; ``told`` comes after it.

    >>> print(command("echo $?", 3, "/i", "/o", "/e", b"end").decode())
    (\\exit 3) || \\builtin eval 'echo $?' </i >/o 2>/e
    end
    """
    before = rf"(\exit {status}) || " if status else ""
    paths = f"<{word(stdin)} >{word(stdout)} 2>{word(stderr)}"
    return f"{before}{_BUILTIN} eval {quoted(text)} {paths}\n".encode() + told


def told(nonce: str, replies: str) -> bytes:
    """Tell the status of what came before to ``replies``, with the options that are on and the directory.

    >>> told("ab", "/r").decode()
    '\\\\builtin printf \\'ab %s %s %s\\\\0\\' "$?" "$-" "$PWD" >/r\\n'
    """
    return f'{_BUILTIN} printf \'{nonce} %s %s %s\\0\' "$?" "$-" "$PWD" >{word(replies)}\n'.encode()


def disarmed(options: str) -> bytes:
    """Take back what an interruption has set, and turn on what that turned off of ``options``.

    Several times, because a signal that was sent just before may be acted on between two lines.
    """
    kept = "".join(each for each in "ET" if each in options)
    lines = [*[f"\\{_DISARM}"] * 4, f"{_BUILTIN} shopt -u extdebug"]
    if kept:
        lines.append(f"{_BUILTIN} set -{kept}")
    return ("\n".join(lines) + "\n").encode()


def reply(data: bytes) -> tuple[str, int, str, str] | None:
    """(nonce, status, options, directory) out of one reply; None when it is none.

    >>> reply(b"0123456789abcdef 3 hB /a b")
    ('0123456789abcdef', 3, 'hB', '/a b')
    >>> reply(b"end 0")
    """
    found = _REPLY.fullmatch(data)
    if found is None:
        return None
    nonce, status, options, directory = (each.decode(errors="replace") for each in found.groups())
    return nonce, int(status), options, directory
