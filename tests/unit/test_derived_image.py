"""The Dockerfile that a plan comes to, as text."""

# Runs without pytest too, hence unittest's own assertions.
# ruff: noqa: PT009, PT027

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import unittest
from pathlib import Path

from orchestrator.derived_image import build_context, dockerfile
from orchestrator.plan import WorkspacePlan
from protocol.errors import ArchiveInvalid, InvalidRequest

BASE = "workspace-core:latest"
PLAN = WorkspacePlan(
    True, Path("/src"), "/home/node", "/home/node/workspace", "/home/node/workspace", has_host_git_dir=True
)


def lines(plan: WorkspacePlan, source: str = ".") -> list[str]:
    return dockerfile(plan, BASE, source).splitlines()


class TheDockerfile(unittest.TestCase):
    def test_it_copies_for_the_owner_and_starts_in_the_workdir(self) -> None:
        self.assertEqual(
            dockerfile(PLAN, BASE),
            "FROM workspace-core:latest\n"
            "COPY --chown=node:node . /home/node/workspace\n"
            "WORKDIR /home/node/workspace\n",
        )

    def test_every_field_is_the_plans(self) -> None:
        plan = dataclasses.replace(PLAN, guest_path="/app", workdir="/app/site", owner="1000:1000")
        self.assertEqual(
            lines(plan),
            ["FROM workspace-core:latest", "COPY --chown=1000:1000 . /app", "WORKDIR /app/site"],
        )

    def test_a_path_with_spaces_takes_the_json_form(self) -> None:
        plan = dataclasses.replace(
            PLAN, guest_path="/home/node/my projects", workdir="/home/node/my projects"
        )
        self.assertEqual(
            lines(plan)[1:],
            [
                'COPY --chown=node:node [".", "/home/node/my projects"]',
                "WORKDIR /home/node/my projects",
            ],
        )

    def test_names_of_other_scripts_stay_as_they_are(self) -> None:
        plan = dataclasses.replace(PLAN, guest_path="/srv/проект один", workdir="/srv/проект один")
        copy = lines(plan)[1]
        self.assertEqual(json.loads(copy[copy.index("[") :]), [".", "/srv/проект один"])
        self.assertIn("проект один", copy)

    def test_content_may_lie_in_a_place_of_its_own_in_the_context(self) -> None:
        self.assertEqual(lines(PLAN, "content")[1], "COPY --chown=node:node content /home/node/workspace")

    def test_the_history_alone_goes_where_git_looks_for_it(self) -> None:
        plan = dataclasses.replace(PLAN, copy_contents=False)
        self.assertEqual(lines(plan)[1], "COPY --chown=node:node ./.git /home/node/workspace/.git")

    def test_a_plan_that_copies_nothing_only_says_where_to_work(self) -> None:
        nothing = ["FROM workspace-core:latest", "WORKDIR /home/node/workspace"]
        self.assertEqual(lines(dataclasses.replace(PLAN, enabled=False)), nothing)
        self.assertEqual(lines(dataclasses.replace(PLAN, copy_contents=False, copy_git=False)), nothing)

    def test_a_mode_that_copying_does_not_give_is_set(self) -> None:
        plan = dataclasses.replace(PLAN, mode="700")
        self.assertEqual(lines(plan)[2], 'RUN ["chmod", "700", "/home/node/workspace"]')

    def test_an_image_name_that_is_none_is_refused(self) -> None:
        for name in ("", "a b", "a\nRUN id", "-a", "$X"):
            with self.subTest(name=name), self.assertRaises(InvalidRequest):
                dockerfile(PLAN, name)


def archive_of(*members: tuple[str, bytes]) -> bytes:
    """A tar.gz with a root, these files, a directory and a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind, link in (
            (".", tarfile.DIRTYPE, ""),
            ("d", tarfile.DIRTYPE, ""),
            ("l", tarfile.SYMTYPE, "d"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, link, 0o700
            tar.addfile(member)
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o640
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class TheContext(unittest.TestCase):
    def test_the_dockerfile_is_beside_the_content_and_no_part_of_it(self) -> None:
        archive = archive_of(("Dockerfile", b"theirs"), (".dockerignore", b"*"), ("a ö", b"x" * 100_000))
        pieces = (archive[at : at + 7] for at in range(0, len(archive), 7))
        built = b"".join(build_context(PLAN, BASE, pieces))
        with tarfile.open(fileobj=io.BytesIO(built)) as tar:
            found = {member.name: member for member in tar}
            files = {name: tar.extractfile(each) for name, each in found.items() if each.isreg()}
            contents = {name: file.read() for name, file in files.items() if file}
        self.assertEqual(contents.pop("Dockerfile").decode(), dockerfile(PLAN, BASE, "content"))
        self.assertEqual(
            contents,
            {
                "content/Dockerfile": b"theirs",
                "content/.dockerignore": b"*",
                "content/a ö": b"x" * 100_000,
            },
        )
        self.assertEqual((found["content/l"].linkname, found["content/d"].isdir()), ("d", True))
        self.assertEqual((found["content/a ö"].mode, found["content/d"].mode), (0o640, 0o700))

    def test_what_is_no_whole_archive_is_refused(self) -> None:
        archive = archive_of(("a", b"x"))
        for broken in (b"", b"no archive", archive[:-40]):
            with self.subTest(broken=broken), self.assertRaises(ArchiveInvalid):
                b"".join(build_context(PLAN, BASE, [broken]))


if __name__ == "__main__":
    unittest.main()
