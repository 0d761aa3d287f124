"""A directory worked on in place, through the blocking API: a real tool server, real bash, real git."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from orchestrator import LocalWorkspace
from orchestrator.processes import members
from orchestrator.workspace import CommandResult, FileOperationResult
from protocol.errors import (
    Conflict,
    InvalidRequest,
    NoMatch,
    NotAFile,
    NotFound,
    OutsideWorkspace,
    Unavailable,
)
from protocol.messages.commands import Stdout
from tests.builder import is_alive
from tests.orchestrator.live import until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorkspace]:
    with LocalWorkspace(tmp_path_factory.mktemp("shared")) as workspace:
        yield workspace


@pytest.fixture
def workspace(shared: LocalWorkspace) -> LocalWorkspace:
    """One tool server for all of them; each begins with an empty directory."""
    shared.execute_command("find . -mindepth 1 -delete")
    return shared


# -- commands ---------------------------------------------------------------------------------------------


def test_a_result_says_everything_about_a_command(workspace: LocalWorkspace) -> None:
    result = workspace.execute_command("echo out; echo err >&2; exit 3")
    assert result == CommandResult("echo out; echo err >&2; exit 3", 3, "out\n", "err\n", False)


def test_commands_are_run_by_bash(workspace: LocalWorkspace) -> None:
    result = workspace.execute_command('shopt -s nullglob; [[ abc == a* ]] && echo "${BASH_VERSION:0:1}"')
    assert (result.exit_code, result.stdout.strip().isdigit()) == (0, True)


def test_a_command_starts_in_the_directory_asked_for(workspace: LocalWorkspace) -> None:
    workspace.write("sub dir/a", "")
    inside = workspace.working_dir.resolve() / "sub dir"
    for cwd in ("sub dir", "./sub dir/", inside, Path("sub dir")):
        assert workspace.execute_command("pwd", cwd).stdout == f"{inside}\n"


@pytest.mark.parametrize("cwd", ["..", "/etc", "sub/../..", "/"])
def test_a_directory_outside_is_refused(workspace: LocalWorkspace, cwd: str) -> None:
    with pytest.raises(OutsideWorkspace):
        workspace.execute_command("pwd", cwd)


def test_a_sibling_with_the_same_beginning_is_outside(workspace: LocalWorkspace) -> None:
    with pytest.raises(OutsideWorkspace):
        workspace.execute_command("pwd", f"{workspace.working_dir}-other")


def test_a_link_that_leads_out_is_outside(workspace: LocalWorkspace) -> None:
    workspace.execute_command("ln -s /etc out")
    with pytest.raises(OutsideWorkspace):
        workspace.execute_command("pwd", "out")


def test_a_timeout_keeps_what_was_written_and_ends_everything(workspace: LocalWorkspace) -> None:
    line = "sleep 600 & echo $! > pid; echo before; wait"
    result = workspace.execute_command(line, timeout=0.25)
    if not result.stdout:  # then the time was over before it had begun
        result = workspace.execute_command(line, timeout=20)
    assert (result.timeout_occurred, result.stdout) == (True, "before\n")
    assert result.exit_code != 0
    pid = int(workspace.read_text("pid"))
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_no_timeout_means_none(workspace: LocalWorkspace) -> None:
    assert workspace.execute_command("sleep 0.1", timeout=None).timeout_occurred is False


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_no_time_is_refused(workspace: LocalWorkspace, timeout: float) -> None:
    with pytest.raises(InvalidRequest, match="above 0"):
        workspace.execute_command("true", timeout=timeout)


def test_output_is_whole_however_long(workspace: LocalWorkspace) -> None:
    result = workspace.execute_command("seq 1 500000; echo end >&2")
    assert result.stdout == "".join(f"{number}\n" for number in range(1, 500_001))
    assert result.stderr == "end\n"


def test_what_a_child_keeps_open_does_not_hold_the_answer(workspace: LocalWorkspace) -> None:
    result = workspace.execute_command("sleep 600 & echo $!", timeout=20)
    assert result.timeout_occurred is False
    os.kill(int(result.stdout), signal.SIGKILL)


def test_variables_and_input_are_handed_on(workspace: LocalWorkspace) -> None:
    result = workspace.execute_command("cat; echo $NAME", env={"NAME": "v w"}, stdin="typed\n")
    assert result.stdout == "typed\nv w\n"


def test_this_programs_secrets_are_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_API_KEY", "hush-hush")
    with LocalWorkspace(tmp_path, environment={"STAGE": "test"}) as workspace:
        told = workspace.execute_command("env").stdout
    assert "hush-hush" not in told
    assert "STAGE=test\n" in told
    assert f"HOME={os.environ['HOME']}\n" in told


# -- files ------------------------------------------------------------------------------------------------


def test_a_large_file_goes_there_and_back_byte_for_byte(workspace: LocalWorkspace, tmp_path: Path) -> None:
    source = tmp_path / "large.bin"
    block = os.urandom(MIB)
    with source.open("wb") as file:
        for _ in range(100):
            file.write(block)
    source.chmod(0o773)
    sent = workspace.file_upload(source, "deep/new/")
    assert sent == FileOperationResult(str(source), "deep/new/large.bin", 100 * MIB)
    got = workspace.file_download("deep/new/large.bin", f"{tmp_path}/back/again/")
    target = tmp_path / "back" / "again" / "large.bin"
    assert got == FileOperationResult("deep/new/large.bin", str(target), 100 * MIB)
    assert digest(target) == digest(source)
    assert target.stat().st_mode & 0o777 == 0o773
    assert [path.name for path in target.parent.iterdir()] == ["large.bin"]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# A disk that others use too may be slow.
@pytest.mark.timeout(300)
def test_a_large_upload_takes_no_memory_to_speak_of(workspace: LocalWorkspace, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(300 * MIB)
    script = (
        "import resource, sys\n"
        "from orchestrator import LocalWorkspace\n"
        "with LocalWorkspace(sys.argv[1]) as workspace:\n"
        "    workspace.write('a', 'warm')\n"
        "    workspace.file_upload(sys.argv[1] + '/a', 'b')\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    workspace.file_upload(sys.argv[2], 'c')\n"
        "    workspace.file_download('c', sys.argv[2] + '.back')\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    (tmp_path / "root").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path / "root"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    assert int(done.stdout) < 100 * 1024  # KiB


@pytest.mark.parametrize("name", ["a b", "new\nline", "ümläut ☃", "100%?#&.txt", "-rf", "'\"$(x)`"])
def test_any_name_is_only_a_name(workspace: LocalWorkspace, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\xff" + name.encode())
    assert workspace.file_upload(tmp_path / name, "into/").destination_path == f"into/{name}"
    workspace.file_download(f"into/{name}", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"\x00\xff" + name.encode()


def test_a_destination_that_is_a_directory_gets_the_file_under_its_own_name(
    workspace: LocalWorkspace, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    workspace.execute_command("mkdir there; ln -s there link")
    for destination, path in (
        ("there", "there/a.txt"),
        ("link", "link/a.txt"),
        (".", "a.txt"),
        ("other", "other"),
        (f"{workspace.working_dir}/abs", "abs"),
    ):
        assert workspace.file_upload(tmp_path / "a.txt", destination).destination_path == path
    (tmp_path / "here").mkdir()
    got = workspace.file_download("there/a.txt", tmp_path / "here")
    assert got.destination_path == str(tmp_path / "here" / "a.txt")


def test_a_refused_transfer_is_raised_and_leaves_nothing(workspace: LocalWorkspace, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with pytest.raises(OutsideWorkspace):
        workspace.file_upload(tmp_path / "a", "../a")
    with pytest.raises(NotFound):
        workspace.file_upload(tmp_path / "missing", "a")
    with pytest.raises(InvalidRequest, match="directory"):
        workspace.file_upload(tmp_path, "a")
    with pytest.raises(NotFound):
        workspace.file_download("missing", tmp_path / "new" / "b")
    with pytest.raises(NotAFile):
        workspace.file_download(".", tmp_path / "b")
    assert workspace.list().entries == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_are_read_written_edited_found_and_listed(workspace: LocalWorkspace) -> None:
    written = workspace.write("src/a.py", "one = 1\ntwo = 2\n")
    assert workspace.read("src/a.py", 2, 2).content == "two = 2\n"
    edited = workspace.edit("src/a.py", "one = 1", "one = 11", expected_hash=written.hash)
    assert "+one = 11" in edited.diff
    assert [match.line for match in workspace.search(r"=\s1", glob="*.py").matches] == [1]
    assert [match.line for match in workspace.search("= 2", literal=True).matches] == [2]
    assert [entry.path for entry in workspace.list(depth=2).entries] == ["src", "src/a.py"]
    assert workspace.read_text("src/a.py") == "one = 11\ntwo = 2\n"
    workspace.write("raw.bin", b"\xff\x00")
    assert workspace.read_bytes("raw.bin") == b"\xff\x00"


def test_refusals_are_the_protocols_own(workspace: LocalWorkspace) -> None:
    workspace.write("a", "text")
    with pytest.raises(NoMatch):
        workspace.edit("a", "absent", "x")
    with pytest.raises(Conflict):
        workspace.write("a", "x", expected_hash="")
    workspace.write("b", b"\xff")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        workspace.read_text("b")


# -- every operation --------------------------------------------------------------------------------------


def test_the_client_offers_every_operation(workspace: LocalWorkspace) -> None:
    assert workspace.client.stat(path=".").path == "."
    with workspace.client.command.stream(command="echo 1; echo 2") as events:
        text = "".join(event.data for event in events if isinstance(event, Stdout))
        assert (text, events.result().exit_code) == ("1\n2\n", 0)


# -- its life ---------------------------------------------------------------------------------------------


def test_making_one_makes_a_directory_and_starts_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    workspace = LocalWorkspace(base_dir=tmp_path / "new" / "place")
    assert (tmp_path / "new" / "place").is_dir()
    assert workspace.working_dir == tmp_path / "new" / "place"
    assert threading.active_count() == before
    workspace.close()


def test_it_works_in_place_and_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("before")
    with LocalWorkspace(tmp_path) as workspace:
        assert workspace.read_text("mine") == "before"
        workspace.write("yours", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "yours"]


def test_one_directory_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest):
        LocalWorkspace()
    with pytest.raises(InvalidRequest):
        LocalWorkspace(tmp_path, base_dir=tmp_path)
    with pytest.raises(InvalidRequest, match="no directory"):
        LocalWorkspace(tmp_path / "file")


def test_it_tells_that_nothing_is_isolated(workspace: LocalWorkspace) -> None:
    assert (workspace.properties.isolation, workspace.properties.isolates_files) == ("none", False)
    assert workspace.properties.left_open


def test_a_pause_ends_every_process_and_keeps_every_file(tmp_path: Path) -> None:
    with LocalWorkspace(tmp_path) as workspace:
        workspace.write(".env", "KEEP=1")
        mark = f"MARK={tmp_path}"
        workspace.client.command(command="exec sleep 600", background=True, env={"MARK": str(tmp_path)})
        until(lambda: members(mark))  # while bash becomes sleep, the kernel shows no environment
        workspace.pause()
        assert not members(mark)
        with pytest.raises(Unavailable, match="resume"):
            workspace.execute_command("true")
        workspace.resume()
        assert workspace.read_text(".env") == "KEEP=1"


def test_a_tool_server_that_died_is_replaced_at_the_next_call(tmp_path: Path) -> None:
    with LocalWorkspace(tmp_path) as workspace:
        parent = int(workspace.execute_command("echo $PPID").stdout)
        os.kill(parent, signal.SIGKILL)
        until(lambda: not is_alive(parent))
        with contextlib.suppress(Unavailable):  # this one may still meet the connection that is going
            workspace.execute_command("true")
        assert workspace.execute_command("echo again").stdout == "again\n"


def test_a_closed_one_says_so_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    workspace = LocalWorkspace(tmp_path)
    workspace.execute_command("true")
    workspace.close()
    workspace.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(Unavailable, match="closed"):
        workspace.execute_command("true")
    workspace.close()


async def test_it_can_be_used_inside_a_running_event_loop(tmp_path: Path) -> None:
    with LocalWorkspace(tmp_path) as workspace:
        assert workspace.execute_command("echo here").stdout == "here\n"
        assert (await asyncio.to_thread(workspace.execute_command, "echo there")).stdout == "there\n"


def test_one_that_nobody_holds_any_more_is_closed(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    workspace = LocalWorkspace(tmp_path)
    server = int(workspace.execute_command("echo $PPID").stdout)
    del workspace
    gc.collect()
    until(lambda: not Path(f"/proc/{server}").exists() and set(threading.enumerate()) <= before)


@pytest.mark.parametrize("ending", ["pass", "os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_no_tool_server_outlives_its_program(tmp_path: Path, ending: str) -> None:
    script = (
        "import os, sys\n"
        "from orchestrator import LocalWorkspace\n"
        "workspace = LocalWorkspace(sys.argv[1])\n"
        "print(workspace.execute_command('echo $PPID').stdout, flush=True)\n"
        "workspace.client.command(command='exec sleep 600', background=True, env={'MARK': sys.argv[1]})\n"
        f"{ending}\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    server = int(done.stdout)
    until(lambda: not Path(f"/proc/{server}").exists() and not members(f"MARK={tmp_path}"))


def test_paths_of_an_answer_are_taken_again(workspace: LocalWorkspace) -> None:
    workspace.write("a/b.txt", "b")
    entry = workspace.list("a").entries[0]
    assert workspace.read_text(PurePosixPath(entry.path)) == "b"
