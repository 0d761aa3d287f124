"""Files for a container's home: whose they are, and what of it is made. No engine takes part."""

from __future__ import annotations

import io
import tarfile

import pytest

from orchestrator.backends.docker_provision import archive_of, numbers
from orchestrator.placing import FileToPlace
from protocol.errors import InvalidRequest

USERS = "root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1001::/home/node:/bin/bash\nnodes:x:7:7::/:/bin/sh\n"
GROUPS = "root:x:0:\nnode:x:1000:\nstaff:x:50:node\n"


@pytest.mark.parametrize(
    ("owner", "ids"),
    [
        ("node:node", (1000, 1000)),
        ("node:staff", (1000, 50)),
        ("node", (1000, 1001)),
        ("1234:5", (1234, 5)),
        ("node:5", (1000, 5)),
        ("5:staff", (5, 50)),
        ("5", (5, 0)),
    ],
)
def test_an_owner_is_looked_up_in_the_images_own_accounts(owner: str, ids: tuple[int, int]) -> None:
    assert numbers(owner, USERS, GROUPS) == ids


@pytest.mark.parametrize("owner", ["nobody", "node:nobody", "nod:node"])
def test_an_owner_that_the_image_does_not_know_is_refused(owner: str) -> None:
    with pytest.raises(InvalidRequest, match=f"knows no owner '{owner}'"):
        numbers(owner, USERS, GROUPS)


def members(archive: bytes) -> dict[str, tuple[int, int, int, bool]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {each.name: (each.mode, each.uid, each.gid, each.isdir()) for each in tar}


def test_missing_directories_come_with_the_files_and_all_have_the_one_owner() -> None:
    files = [FileToPlace(".codex/config.toml", b"a"), FileToPlace(".codex/b", b"b"), FileToPlace(".c", b"c")]
    assert members(archive_of(files, (1, 2))) == {
        ".codex": (0o700, 1, 2, True),
        ".codex/config.toml": (0o600, 1, 2, False),
        ".codex/b": (0o600, 1, 2, False),
        ".c": (0o600, 1, 2, False),
    }


def test_a_directory_that_is_there_keeps_its_mode() -> None:
    archive = archive_of([FileToPlace(".codex/config.toml", b"a")], (1, 2), [".codex/config.toml"])
    assert members(archive).keys() == {".codex/config.toml"}
