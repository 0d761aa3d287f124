"""Make the files in ``locks/`` fit ``pyproject.toml`` again: every package by version and digest.

    python3 -m scripts.lock                 # keeps the versions that still fit
    python3 -m scripts.lock --upgrade       # takes the newest that fit

One file serves every Python and every platform. The resolver (uv) is installed into a scratch environment
that is gone afterwards. It takes no index from this machine's configuration, so the files come out alike
anywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.environment import ROOT, Unfit, choose_python, own_environ, run

LOCKS = {
    "dev": ("Everything that developing takes", ["toolserver", "host", "docker", "examples", "dev"]),
    "toolserver": ("What the image installs", ["toolserver"]),
    "embedded": ("Node and ripgrep, for a machine without them", ["embedded"]),
}
"""File name -> (what it is for, the extras it pins). The first is resolved alone, the others follow it."""

OPTIONS = [
    *(
        "--no-config",
        "--quiet",
        "--system-certs",
        "--universal",
        "--python-version=3.11",
        "--generate-hashes",
    ),
    *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
]


def main() -> int:
    """Rewrite all the locks, or say why not."""
    try:
        with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
            uv = install_uv(Path(scratch))
            for name in LOCKS:
                write_lock(uv, name, sys.argv[1:])
    except Unfit as unfit:
        print(f"lock: {unfit}", file=sys.stderr)
        return 1
    return 0


def install_uv(scratch: Path) -> Path:
    """The resolver's path, in a new environment at ``scratch``."""
    python = choose_python(os.environ.get("PYTHON"))
    run([python.path, "-I", "-m", "venv", str(scratch)], "no scratch environment could be made")
    run([str(scratch / "bin/python"), "-I", "-m", "pip", "install", "-qq", "uv"], "uv could not be installed")
    return scratch / "bin" / "uv"


def write_lock(uv: Path, name: str, arguments: list[str]) -> None:
    """Resolve one lock file in place; versions that it names already are kept where they fit."""
    purpose, extras = LOCKS[name]
    first = next(iter(LOCKS))
    path = ROOT / "locks" / f"{name}.txt"
    options = [*OPTIONS, *(f"--extra={extra}" for extra in extras), *arguments]
    if name != first:
        options.append(f"--constraint=locks/{first}.txt")
    # No UV_ variable either: one may name an index, or a directory of files built here.
    environ = {key: value for key, value in own_environ().items() if not key.startswith("UV_")}
    command = [str(uv), "pip", "compile", *options, f"--output-file={path}", "pyproject.toml"]
    if subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, check=False).returncode:
        raise Unfit(f"locks/{name}.txt could not be resolved; the reason stands above.")
    path.write_text(f"# {purpose}: {', '.join(extras)}. Written by `make lock`.\n{path.read_text()}")
    print(f"lock: locks/{name}.txt, {path.read_text().count('==')} packages")


if __name__ == "__main__":
    sys.exit(main())
