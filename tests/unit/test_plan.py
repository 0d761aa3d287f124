"""What a launch does with the operator's directory, decided without any container."""

# Runs without pytest too, hence unittest's own assertions.
# ruff: noqa: PT009, PT027

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from orchestrator.plan import (
    CORE_IMAGE,
    GuestProfile,
    WorkspacePlan,
    WorkspaceSpec,
    guest_home,
    launch_plan,
    workspace_plan,
)
from protocol.errors import InvalidRequest

HOME = "/home/node"
NOWHERE = Path("/nowhere/project")


def plan(**changes: Any) -> WorkspacePlan:
    """A plan that copies, but for ``changes``."""
    place = f"{HOME}/workspace"
    return dataclasses.replace(WorkspacePlan(True, NOWHERE, HOME, place, place), **changes)


class ThePlanItself(unittest.TestCase):
    def test_it_has_exactly_these_fields_and_defaults(self) -> None:
        fields = {field.name: field.default for field in dataclasses.fields(WorkspacePlan)}
        missing = dataclasses.MISSING
        self.assertEqual(
            fields,
            {
                "enabled": missing,
                "host_path": missing,
                "guest_home": missing,
                "guest_path": missing,
                "workdir": missing,
                "owner": "node:node",
                "mode": "755",
                "copy_contents": True,
                "copy_git": True,
                "has_host_git_dir": False,
            },
        )

    def test_it_does_not_change(self) -> None:
        with self.assertRaises(dataclasses.FrozenInstanceError):
            plan().enabled = False  # type: ignore[misc]

    def test_what_would_mean_something_in_a_dockerfile_or_a_shell_is_refused(self) -> None:
        for path in ("/a\nRUN id", "/a$HOME", "/a`id`", "/a'b", '/a"b', "/a\\", "/a\tb", "/a\0", "/\u2028"):
            for field in ("guest_home", "guest_path", "workdir"):
                with self.subTest(path=path, field=field), self.assertRaises(InvalidRequest):
                    plan(**{field: path})

    def test_a_guest_path_is_absolute_and_does_not_climb(self) -> None:
        for path in ("", "/", "home", "./home", "/home/../etc", "/home/./node", "~"):
            with self.subTest(path=path), self.assertRaises(InvalidRequest):
                plan(guest_path=path)

    def test_an_owner_is_a_user_or_a_user_and_a_group(self) -> None:
        for owner in ("node", "node:node", "1000:1000", "_apt:nogroup", "svc-a"):
            self.assertEqual(plan(owner=owner).owner, owner)
        for owner in ("", ":", "node:", ":node", "node node", "a:b:c", "--from=x", "node\nUSER root"):
            with self.subTest(owner=owner), self.assertRaises(InvalidRequest):
                plan(owner=owner)

    def test_a_mode_is_octal(self) -> None:
        for mode in ("755", "0700", "1777"):
            self.assertEqual(plan(mode=mode).mode, mode)
        for mode in ("", "75", "789", "rwx", "07755", "755\n"):
            with self.subTest(mode=mode), self.assertRaises(InvalidRequest):
                plan(mode=mode)

    def test_what_is_copied_has_an_absolute_path(self) -> None:
        with self.assertRaises(InvalidRequest):
            plan(host_path=Path("project"))
        self.assertEqual(plan(host_path=Path("project"), enabled=False).host_path, Path("project"))

    def test_what_comes_along_follows_from_the_switches(self) -> None:
        table = [
            # enabled, contents, git, has git -> a file, the history
            ((True, True, True, True), (True, True)),
            ((True, True, False, True), (True, False)),
            ((True, False, True, True), (False, True)),
            ((True, False, False, True), (False, False)),
            ((True, True, True, False), (True, False)),
            ((False, True, True, True), (False, False)),
        ]
        for (enabled, contents, git, has_git), (file, history) in table:
            chosen = plan(enabled=enabled, copy_contents=contents, copy_git=git, has_host_git_dir=has_git)
            with self.subTest(plan=chosen):
                self.assertEqual(chosen.takes("src/a.ts"), file)
                self.assertEqual(chosen.takes(".gitignore"), file)
                self.assertEqual(chosen.takes("vendor/lib/.git"), file)
                self.assertEqual((chosen.takes(".git"), chosen.takes(".git/HEAD")), (history, history))


class FromIntentToPlan(unittest.TestCase):
    def setUp(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self._temporary.cleanup)
        self.project = Path(self._temporary.name)

    def test_a_copy_goes_below_the_guests_home(self) -> None:
        made = workspace_plan(WorkspaceSpec(copy_cwd=True, user_cwd=self.project), "/home/ann")
        place = "/home/ann/workspace"
        self.assertEqual(made, WorkspacePlan(True, self.project, "/home/ann", place, place))

    def test_without_a_copy_work_starts_at_home(self) -> None:
        made = workspace_plan(WorkspaceSpec(copy_cwd=False, user_cwd=self.project), "/home/ann")
        self.assertEqual(made, WorkspacePlan(False, self.project, "/home/ann", "/home/ann", "/home/ann"))

    def test_a_slash_at_the_end_of_the_home_changes_nothing(self) -> None:
        spec = WorkspaceSpec(copy_cwd=True, user_cwd=self.project)
        self.assertEqual(workspace_plan(spec, "/home/ann/"), workspace_plan(spec, "/home/ann"))

    def test_the_core_image_has_its_own_place_copied_to_or_not(self) -> None:
        for copied in (True, False):
            spec = WorkspaceSpec(copy_cwd=copied, user_cwd=self.project)
            made = launch_plan(spec, CORE_IMAGE).workspace_plan
            self.assertEqual((made.guest_path, made.workdir, made.guest_home), ("/app", "/app", HOME))

    def test_git_is_seen_as_a_directory_a_file_a_broken_link_and_not_at_all(self) -> None:
        spec = WorkspaceSpec(copy_cwd=True, user_cwd=self.project)
        git = self.project / ".git"
        self.assertFalse(workspace_plan(spec).has_host_git_dir)
        git.mkdir()
        self.assertTrue(workspace_plan(spec).has_host_git_dir)
        git.rmdir()
        git.write_text("gitdir: /elsewhere\n")
        self.assertTrue(workspace_plan(spec).has_host_git_dir)
        git.unlink()
        git.symlink_to("nothing")
        self.assertTrue(workspace_plan(spec).has_host_git_dir)

    def test_the_launch_plan_keeps_the_intent_beside_the_decision(self) -> None:
        spec = WorkspaceSpec(copy_cwd=True, user_cwd=self.project)
        launch = launch_plan(spec, GuestProfile())
        self.assertIs(launch.spec, spec)
        self.assertEqual(launch.workspace_plan, workspace_plan(spec, HOME))

    def test_a_directory_that_is_not_there_is_an_error_before_anything_starts(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "is no directory: there is nothing to copy"):
            launch_plan(WorkspaceSpec(copy_cwd=True, user_cwd=self.project / "gone"))
        launch_plan(WorkspaceSpec(copy_cwd=False, user_cwd=self.project / "gone"))

    def test_a_broken_history_is_an_error_unless_it_stays_behind(self) -> None:
        (self.project / ".git").write_text("gitdir: gone\n")
        spec = WorkspaceSpec(copy_cwd=True, user_cwd=self.project)
        with self.assertRaisesRegex(InvalidRequest, "or copy without the history"):
            launch_plan(spec)
        self.assertFalse(launch_plan(spec, copy_git=False).workspace_plan.takes(".git"))
        self.assertFalse(launch_plan(WorkspaceSpec(copy_cwd=False, user_cwd=self.project)).git_history.layers)


class TheGuestsHome(unittest.TestCase):
    def test_it_is_the_variables_or_the_usual_one(self) -> None:
        self.assertEqual(guest_home({}), HOME)
        self.assertEqual(guest_home({"WORKSPACE_GUEST_HOME": ""}), HOME)
        self.assertEqual(guest_home({"WORKSPACE_GUEST_HOME": "/root"}), "/root")

    def test_a_bad_one_is_refused_by_the_variables_name(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "WORKSPACE_GUEST_HOME 'home' is refused"):
            guest_home({"WORKSPACE_GUEST_HOME": "home"})


class OnImport(unittest.TestCase):
    def test_nothing_is_loaded_that_only_an_engine_or_a_server_needs(self) -> None:
        rooms = "plan trust derived_image workspace_tool environments".split()
        heavy = "asyncio aiohttp aiodocker isal tomlkit websockets"
        code = (
            f"import sys, {', '.join(f'orchestrator.{room}' for room in rooms)}\n"
            f"print(*sorted(set({heavy.split()}) & set(sys.modules)))"
        )
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
        )
        self.assertEqual(done.stdout.strip(), "")


if __name__ == "__main__":
    unittest.main()
