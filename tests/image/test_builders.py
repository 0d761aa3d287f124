"""Both builders take the same file, and make the same image of it, from nothing, file by file."""

from __future__ import annotations

import json
import subprocess

import pytest

from scripts.engine import buildkit_client
from scripts.image import OFFICIAL_BASE, base, build
from tests.image.support import IMAGE, docker

OTHER = "workspace-core:other-builder"
MANIFEST = """
import hashlib, json, os, stat
found = {}
for folder, names, files in os.walk("/", followlinks=False):
    names[:] = [n for n in names if os.path.join(folder, n) not in ("/proc", "/sys", "/dev")]
    for name in [*names, *files]:
        path = os.path.join(folder, name)
        info = os.lstat(path)
        kind = stat.S_IFMT(info.st_mode)
        if stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(open(path, "rb").read()).hexdigest()
        else:
            content = ""
        found[path] = [kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, content]
print(json.dumps(found))
"""
OF_THE_CONTAINER = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/.dockerenv", "/etc/mtab"}


def manifest(image: str) -> dict[str, list[object]]:
    """Every path of an image: kind, mode, owner, group, digest or link target."""
    told = docker("run", "--rm", "--user=0", "--entrypoint=python3", image, "-c", MANIFEST)
    found: dict[str, list[object]] = json.loads(told)
    return {path: entry for path, entry in found.items() if path not in OF_THE_CONTAINER}


@pytest.mark.timeout(1800)  # five minutes beside ten busy programs
def test_a_second_build_from_nothing_by_the_other_builder_gives_the_same_files() -> None:
    other = buildkit_client() is not None
    if not other:
        print("no client for BuildKit is here: the second build is by the same builder")
    try:
        build(OTHER, buildkit=other, no_cache=True)
        one, two = manifest(IMAGE), manifest(OTHER)
        assert {path for path in one.keys() | two.keys() if one.get(path) != two.get(path)} == set()
    finally:
        subprocess.run(["docker", "image", "rm", "--force", OTHER], capture_output=True, check=False)


def test_a_base_that_is_asked_for_is_taken_and_none_is_pulled_twice() -> None:
    assert base({"BASE": "some-image:1"}) == "some-image:1"
    label = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'
    assert base({}) == docker("image", "inspect", "--format", label, IMAGE)
    assert base({}) in (OFFICIAL_BASE, "workspace-core-base:trixie")
