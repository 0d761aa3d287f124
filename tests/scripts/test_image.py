"""What a build is given, without an engine: the context, the bundle, the versions."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.image import ROOT, place_ca_bundle, versions

DOCKERFILE = (ROOT / "Dockerfile.core").read_text()
ALLOWED = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def copied() -> list[str]:
    """Every path of the checkout that Dockerfile.core copies."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [path.rstrip("/") for line in lines for path in line.split()]


def test_the_build_context_is_an_allow_list_of_exactly_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    for path in copied():
        # ``[d]`` is a d that makes a pattern of the path, so that it may be missing.
        name = path.removesuffix("*").replace("[d]", "d")
        assert any(name == allowed or name.startswith(f"{allowed}/") for allowed in ALLOWED), path
    assert [path for path in copied() if not set("*[") & set(path) and not (ROOT / path).exists()] == []


def test_both_builders_can_read_the_file() -> None:
    assert not re.search(r"^# *syntax=|RUN --|COPY --(?!from)|<<", DOCKERFILE, re.MULTILINE)


def test_a_bundle_of_the_environment_is_placed_for_the_build_and_taken_away_again(tmp_path: Path) -> None:
    source, target = tmp_path / "ca.pem", tmp_path / "build" / "extra-ca.pem"
    source.write_text("certificates")
    place_ca_bundle({"SSL_CERT_FILE": str(tmp_path / "gone")}, target)
    assert not target.exists()
    place_ca_bundle({"EXTRA_CA_BUNDLE": str(source)}, target)
    assert target.read_text() == "certificates"
    place_ca_bundle({}, target)
    assert not target.exists()


def test_the_labels_get_the_locked_versions() -> None:
    found = versions()
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", found[name]) for name in found if name.endswith("VERSION"))
    assert found["NODE_VERSION"].startswith("24.")
    assert [name for name in found if f"ARG {name}" not in DOCKERFILE] == []


def test_the_lock_of_the_package_managers_names_no_place() -> None:
    assert '"resolved"' not in (ROOT / "images/npm/package-lock.json").read_text()
