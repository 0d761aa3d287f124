"""One file of certificates: the system's own and the extra ones.

Most programs take one CA file and then trust nothing else. A company's own certificate must come beside the
public ones, not in their place.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SYSTEM_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)
"""Where Debian, Fedora and the rest keep theirs; the first that is there counts."""

_NAME = "ca-bundle.pem"


def combined_bundle(extra: Path, state: Path, system: Iterable[Path] = SYSTEM_BUNDLES) -> Path:
    """A file below ``state`` that holds both, ``extra`` first. Raises OSError when that cannot be read."""
    parts = [extra.read_bytes()]
    parts += [next((path.read_bytes() for path in system if path.is_file()), b"")]
    bundle = state / _NAME
    bundle.write_bytes(b"\n".join(parts))
    return bundle
