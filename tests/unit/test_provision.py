"""What agents must trust, decided without a home, a container or an agent."""

# Runs without pytest too, hence unittest's own assertions.
# ruff: noqa: PT009

from __future__ import annotations

import json
import tomllib
import unittest
from pathlib import Path

from orchestrator.plan import WorkspacePlan, WorkspaceSpec, workspace_plan
from orchestrator.trust import CLAUDE_SETTINGS, CODEX_CONFIG, agent_provision_plan

PLAN = workspace_plan(WorkspaceSpec(copy_cwd=True, user_cwd=Path("/nowhere")), "/home/node")


def contents(plan: WorkspacePlan, existing: dict[str, bytes] | None = None) -> dict[str, bytes]:
    return {file.path: file.content for file in agent_provision_plan(plan, existing).files}


class TheFilesToPlace(unittest.TestCase):
    def test_a_fresh_home_gets_both_agents_files_and_no_first_questions(self) -> None:
        made = contents(PLAN)
        self.assertEqual(
            tomllib.loads(made[CODEX_CONFIG].decode()),
            {"projects": {"/home/node/workspace": {"trust_level": "trusted"}}},
        )
        self.assertEqual(
            json.loads(made[CLAUDE_SETTINGS]),
            {
                "hasCompletedOnboarding": True,
                "projects": {"/home/node/workspace": {"hasTrustDialogAccepted": True}},
            },
        )

    def test_they_are_for_the_owners_eyes_and_have_a_place_in_the_guest(self) -> None:
        made = agent_provision_plan(PLAN)
        self.assertEqual([file.mode for file in made.files], [0o600, 0o600])
        self.assertEqual(
            list(made.guest_paths()), ["/home/node/.codex/config.toml", "/home/node/.claude.json"]
        )
        self.assertEqual(made.owner, PLAN.owner)

    def test_what_is_trusted_is_the_plans_workdir_and_nothing_else(self) -> None:
        plan = workspace_plan(WorkspaceSpec(copy_cwd=True, user_cwd=Path("/nowhere")), "/home/node", "/app")
        self.assertEqual(list(json.loads(contents(plan)[CLAUDE_SETTINGS])["projects"]), ["/app"])
        self.assertEqual(list(tomllib.loads(contents(plan)[CODEX_CONFIG].decode())["projects"]), ["/app"])

    def test_a_second_time_changes_not_a_byte(self) -> None:
        first = contents(PLAN)
        self.assertEqual(contents(PLAN, first), first)

    def test_content_is_not_shown_where_plans_are_logged(self) -> None:
        self.assertNotIn("trust", repr(agent_provision_plan(PLAN)))


if __name__ == "__main__":
    unittest.main()
