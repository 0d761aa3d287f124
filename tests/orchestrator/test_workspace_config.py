"""One path policy: every provider's layout, and no way out of a project's directory."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.paths import PathManager, session_id
from orchestrator.workspace_config import (
    LAYOUTS,
    PROVIDERS,
    WorkspaceConfig,
    guest_path,
    project_id,
    upload_name,
)
from orchestrator.workspace_tool import WorkspaceTool
from protocol.errors import InvalidRequest, NotFound, OutsideWorkspace, ToolError

REPOSITORY = Path(__file__).resolve().parents[2]
HOST = WorkspaceConfig.for_user(PathManager(Path("/srv/data")), "ann")
CONFIGS = {**{name: WorkspaceConfig.for_provider(name) for name in PROVIDERS}, "many users": HOST}
every_provider = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.mark.parametrize(
    ("provider", "workspace", "directory"),
    [
        ("daytona", "/workspace", "/workspace/p1"),
        ("local_process", "/workspace/p1", "/workspace/p1"),
        ("docker", "/app", "/app"),
        ("smolmachines", "/app", "/app"),
        ("kubernetes", "/app", "/app"),
        ("many users", "/srv/data/workspaces/ann/p1", "/srv/data/workspaces/ann/p1"),
    ],
)
def test_every_provider_has_its_layout(provider: str, workspace: str, directory: str) -> None:
    config = CONFIGS[provider]
    assert config.get_project_workspace_path("p1") == workspace
    assert config.get_project_directory_path("p1") == directory
    assert config.get_file_upload_path("p1", "a b.txt") == f"{directory}/a b.txt"


def test_the_table_of_providers_and_the_table_of_layouts_fit() -> None:
    assert set(PROVIDERS.values()) | {"many_users"} == set(LAYOUTS)


def test_the_many_users_layout_is_the_path_managers() -> None:
    paths = PathManager(Path("/srv/data"))
    assert HOST.get_project_directory_path("s1") == str(paths.workspace_dir("ann", "s1"))


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({}, "/workspace/p"),
        ({"SANDBOX_PROVIDER": "", "SANDBOX_WORKSPACE_ROOT": ""}, "/workspace/p"),
        ({"SANDBOX_WORKSPACE_ROOT": "/srv/w/"}, "/srv/w/p"),
        ({"SANDBOX_PROVIDER": "daytona", "SANDBOX_WORKSPACE_ROOT": "/srv/w"}, "/srv/w/p"),
        ({"SANDBOX_PROVIDER": "docker"}, "/app"),
        # Both spellings mean the root in the core image: a configuration with either is right as it is.
        ({"SANDBOX_PROVIDER": "docker", "SANDBOX_WORKSPACE_ROOT": "/workspace"}, "/app"),
        ({"SANDBOX_PROVIDER": "kubernetes", "SANDBOX_WORKSPACE_ROOT": "/app"}, "/app"),
    ],
)
def test_the_environment_chooses_provider_and_root(environ: dict[str, str], directory: str) -> None:
    assert WorkspaceConfig.from_env(environ).get_project_directory_path("p") == directory


def test_an_unknown_provider_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        WorkspaceConfig.from_env({"SANDBOX_PROVIDER": "dokcer"})
    assert str(refusal.value) == (
        "SANDBOX_PROVIDER='dokcer' is no provider: choose one of "
        "local_process, docker, smolmachines, kubernetes, daytona"
    )


@pytest.mark.parametrize("root", ["workspace", "/", "/w/../etc", "/w\n", "/w\0", "/w$HOME", "~/w"])
def test_a_bad_root_is_refused_by_the_variables_name(root: str) -> None:
    with pytest.raises(InvalidRequest, match="SANDBOX_WORKSPACE_ROOT"):
        WorkspaceConfig.from_env({"SANDBOX_WORKSPACE_ROOT": root})


def test_the_core_images_root_is_not_moved_by_a_variable() -> None:
    with pytest.raises(InvalidRequest, match="docker runs the core image, whose workspace is /app"):
        WorkspaceConfig.from_env({"SANDBOX_PROVIDER": "docker", "SANDBOX_WORKSPACE_ROOT": "/srv/w"})


@every_provider
@pytest.mark.parametrize(
    "bad", ["", ".", "..", "../x", "/etc", "a/b", "a\0", "a b", ".x", "é", "x" * 129, "{root}"]
)
def test_a_bad_project_id_has_no_paths(config: WorkspaceConfig, bad: str) -> None:
    for ask in (config.get_project_workspace_path, config.get_project_directory_path):
        with pytest.raises(InvalidRequest):
            ask(bad)
    with pytest.raises(InvalidRequest):
        config.normalize_path("a", bad)
    assert not config.is_path_safe("a", bad)


@given(st.text(max_size=8) | st.from_regex(r"[A-Za-z0-9._-]{1,130}", fullmatch=True))
def test_a_project_is_named_as_a_session_is(raw: str) -> None:
    assert accepted(project_id, raw) == accepted(session_id, raw)


def accepted(check: object, raw: str) -> bool:
    assert callable(check)
    try:
        check(raw)
    except InvalidRequest:
        return False
    return True


@every_provider
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".", "."),
        ("./a//b", "a/b"),
        ("a/", "a"),
        ("a/./b/../c", "a/c"),
        # Names that begin as a root or a project does are names.
        ("workspaces/a", "workspaces/a"),
        ("workspace/a", "workspace/a"),
        ("app/a", "app/a"),
        ("data/data/x", "data/data/x"),
        ("p/p/a", "p/p/a"),
        ("p", "p"),
        ("..a", "..a"),
        ("...", "..."),
        # Unicode and case are left alone: the two spellings of é are two files.
        ("Ünï/\u00e9", "Ünï/\u00e9"),
        ("e\u0301", "e\u0301"),
        ("A/a", "A/a"),
        (" a ", " a "),
        ("a\\b", "a\\b"),
        ("~/a", "~/a"),
    ],
)
def test_a_path_is_put_in_normal_form_by_components(
    config: WorkspaceConfig, path: str, expected: str
) -> None:
    directory = config.get_project_directory_path("p")
    assert config.normalize_path(path, "p") == expected
    assert config.normalize_path(f"{directory}/{path}", "p") == expected
    assert config.resolve_path(path, "p") == (directory if expected == "." else f"{directory}/{expected}")


@every_provider
@pytest.mark.parametrize(
    "path", ["..", "../p/a", "a/../..", "/etc/passwd", "/", "//etc", "/..", "/applications/a"]
)
def test_a_path_that_leads_out_is_refused(config: WorkspaceConfig, path: str) -> None:
    assert not config.is_path_safe(path, "p")
    with pytest.raises(OutsideWorkspace):
        config.resolve_path(path, "p")


@every_provider
@pytest.mark.parametrize("path", ["", "a\0b", "x" * 256, "a/" * 3000, "\ud800"])
def test_what_no_file_system_takes_is_refused(config: WorkspaceConfig, path: str) -> None:
    for each in (path, f"{config.get_project_directory_path('p')}/{path}") if path else (path,):
        assert not config.is_path_safe(each, "p")
        with pytest.raises(InvalidRequest):
            config.normalize_path(each, "p")


@pytest.mark.parametrize("provider", ["daytona", "local_process", "many users"])
def test_another_projects_directory_is_outside_however_its_name_begins(provider: str) -> None:
    config = CONFIGS[provider]
    other = config.get_project_directory_path("ab")
    assert not config.is_path_safe(f"{other}/x", "a")
    assert not config.is_path_safe(other, "a")
    assert not config.is_path_safe(f"{config.get_project_directory_path('a')}/../ab/x", "a")
    assert config.is_path_safe(f"{other}/x", "ab")


def test_a_shared_workspace_is_not_inside_a_project() -> None:
    for path in ("/workspace", "/workspace/", "/workspace/./"):
        assert not CONFIGS["daytona"].is_path_safe(path, "p")


@pytest.mark.parametrize("provider", ["docker", "smolmachines", "kubernetes", "many users"])
def test_both_standing_spellings_mean_the_root_where_nothing_else_is_called_so(provider: str) -> None:
    for path in ("/app/a", "/workspace/a", "//app//a"):
        assert CONFIGS[provider].normalize_path(path, "p") == "a"
    assert CONFIGS[provider].normalize_path("/workspace", "p") == "."


def test_a_spelling_that_is_a_place_of_its_own_is_that_place() -> None:
    config = WorkspaceConfig.for_provider("daytona", "/workspace/teams")
    assert config.normalize_path("/app/a", "p") == "a"
    assert not config.is_path_safe("/workspace/a", "p")


PARTS = st.sampled_from(["..", ".", "", "a", "p", "pp", "app", "workspace", "p/..", "é", " "]) | st.text(
    max_size=3
)
PATHS = st.builds(
    "{}{}".format,
    st.sampled_from(["", "/", "/app/", "/workspace/", "/workspace/p/"]),
    st.lists(PARTS, max_size=6).map("/".join),
)


@given(path=PATHS, name=st.sampled_from(list(CONFIGS)))
def test_whatever_is_taken_lies_below_the_projects_directory(path: str, name: str) -> None:
    config = CONFIGS[name]
    try:
        absolute = config.resolve_path(path, "p")
    except ToolError:
        assert not config.is_path_safe(path, "p")
        return
    directory = config.get_project_directory_path("p").split("/")
    parts = absolute.split("/")
    assert parts[: len(directory)] == directory
    assert not {"", ".", ".."}.intersection(parts[1:])


@given(path=PATHS, name=st.sampled_from(list(CONFIGS)))
def test_normal_form_is_its_own_normal_form(path: str, name: str) -> None:
    config = CONFIGS[name]
    if config.is_path_safe(path, "p"):
        once = config.normalize_path(path, "p")
        assert config.normalize_path(once, "p") == once
        assert config.normalize_path(config.resolve_path(path, "p"), "p") == once


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=5), min_size=1
    )
)
def test_names_keep_every_character(names: list[str]) -> None:
    if not {".", ".."}.intersection(names) and names[0] != ".workspace-core":
        assert HOST.normalize_path("/".join(names), "p") == "/".join(names)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/x", "x/", "a\0", "C:\\fakepath\\x", "\ud800", "x" * 256]
)
def test_an_upload_has_a_base_name(name: str) -> None:
    with pytest.raises(InvalidRequest):
        upload_name(name)
    for config in CONFIGS.values():
        with pytest.raises(InvalidRequest):
            config.get_file_upload_path("p", name)


@pytest.mark.parametrize(
    "name", ["a.txt", ".env.example", "notes for Ann.pdf", "..a", "Ünï", "x" * 255, "-rf", "a:b"]
)
def test_an_uploads_name_is_kept_as_it_is(name: str) -> None:
    assert CONFIGS["docker"].get_file_upload_path("p", name) == f"/app/{name}"


def test_an_upload_does_not_take_the_tool_servers_own_name() -> None:
    with pytest.raises(OutsideWorkspace):
        upload_name(".workspace-core")


def test_a_guest_path_is_absolute_and_plain() -> None:
    assert guest_path("//home//node/") == "/home/node"
    for bad in ("", "/", "home", "/a/..", "/a\n", "/a'", "/\x7f"):
        with pytest.raises(InvalidRequest):
            guest_path(bad)


class Reader(WorkspaceTool):
    """As an author writes one."""


@every_provider
def test_a_tool_gets_checked_paths_on_every_provider(config: WorkspaceConfig) -> None:
    tool = Reader(config, "p")
    assert tool.workspace_path == config.get_project_workspace_path("p")
    assert tool.project_directory == config.get_project_directory_path("p")
    assert tool.clean_path(f"{tool.project_directory}/src//a.ts") == "src/a.ts"
    assert tool.resolve_path("src/a.ts") == f"{tool.project_directory}/src/a.ts"
    assert tool.is_path_safe("src/a.ts")
    assert not tool.is_path_safe("../a.ts")
    with pytest.raises(OutsideWorkspace):
        tool.clean_path("../a.ts")


def test_a_tool_for_no_project_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest):
        Reader(CONFIGS["docker"], "../p")


def test_a_tools_refusal_has_the_form_of_everybodys() -> None:
    tool = Reader(CONFIGS["docker"], "p")
    told = tool.fail_response("line 9 is not there; the file has 4", line_count=4)
    assert (told.code, told.message, told.details) == (
        "invalid_request",
        "line 9 is not there; the file has 4",
        {"lineCount": 4},
    )
    assert tool.fail_response(NotFound("no file a.txt", path="a.txt")).code == "not_found"


def test_a_tools_own_failure_tells_its_kind_and_no_more() -> None:
    told = Reader(CONFIGS["docker"], "p").fail_response(OSError("/home/operator/secret"))
    assert (told.code, told.message) == ("internal", "Reader failed: OSError")


MAY_NAME_A_ROOT = {
    "protocol/paths.py": "the two spellings of the root, which hold on every backend",
    "toolserver/config.py": "the default of WORKSPACE_ROOT",
    "orchestrator/workspace_config.py": "the layouts",
    "orchestrator/environments.py": "data directories of hosts, not of guests",
    "orchestrator/backends/docker_container.py": "what of the image's file system is a volume",
}


def test_no_other_module_knows_where_workspaces_lie() -> None:
    rooms = ("protocol", "toolserver", "orchestrator")
    modules = [path for room in rooms for path in (REPOSITORY / room).rglob("*.py")]
    found = {str(path.relative_to(REPOSITORY)) for path in modules if names_a_root(path)}
    assert found - MAY_NAME_A_ROOT.keys() == set()


def names_a_root(module: Path) -> bool:
    """Whether its code, documentation apart, has a literal that is or begins with a guest's root."""
    nodes = list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
    documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    literals = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in documentation]
    texts = [node.value for node in literals if isinstance(node.value, str)]
    return any(f"{text}/".startswith(("/app/", "/workspace/")) for text in texts)
