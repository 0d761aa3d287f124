"""Extra certificates come beside the system's, never in their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolserver.system.trust import combined_bundle


def test_both_are_in_the_bundle(tmp_path: Path) -> None:
    extra, system = tmp_path / "extra", tmp_path / "system"
    extra.write_bytes(b"one without a line end")
    system.write_bytes(b"two\n")
    bundle = combined_bundle(extra, tmp_path, [tmp_path / "not there", system])
    assert bundle.read_bytes() == b"one without a line end\ntwo\n"


def test_a_system_without_certificates_leaves_the_extra_ones(tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.write_bytes(b"one\n")
    assert combined_bundle(extra, tmp_path, []).read_bytes() == b"one\n\n"


def test_a_bundle_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        combined_bundle(tmp_path / "not there", tmp_path)
