"""The environment script: what is done again, when, and what an unlucky machine is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts import environment
from scripts.environment import Python, Unfit, choose_python

EVERYTHING = ["make_venv", "install_lock", "install_project", "install_missing_tools", "compile_sources"]


@dataclass
class Checkout:
    """A checkout of its own, in which the steps are only written down."""

    root: Path
    steps: list[str] = field(default_factory=list)
    failing: str | None = None

    def up(self) -> list[str]:
        """Run the script; the steps it took."""
        self.steps.clear()
        assert environment.main() == (1 if self.failing in self.steps else 0)
        return list(self.steps)

    def step(self, name: str) -> Callable[[object], None]:
        def take(_: object = None) -> None:
            self.steps.append(name)
            if name == self.failing:
                raise Unfit("the reason stands above.")
            if name == "make_venv":
                self.make_venv()

        return take

    def make_venv(self) -> None:
        environment.STAMP.unlink(missing_ok=True)
        environment.VENV_PYTHON.parent.mkdir(parents=True, exist_ok=True)
        environment.VENV_PYTHON.unlink(missing_ok=True)
        environment.VENV_PYTHON.symlink_to(sys.executable)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    made = Checkout(tmp_path / "checkout")
    place(made.root, monkeypatch)
    for name in EVERYTHING:
        monkeypatch.setattr(environment, name, made.step(name))
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return made


def place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the script believe that it lies in ``root``."""
    old = environment.ROOT
    for name in ("ROOT", "VENV", "VENV_PYTHON", "STAMP", "PROJECT", "DEVELOPMENT_LOCK", "EMBEDDED_LOCK"):
        path = root / getattr(environment, name).relative_to(old)
        monkeypatch.setattr(environment, name, path)
    for directory in ("locks", "toolserver"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for path in (environment.PROJECT, environment.DEVELOPMENT_LOCK, environment.EMBEDDED_LOCK):
        path.write_text(f"# {path.name}\n")


def test_a_fresh_checkout_takes_every_step_and_the_next_run_none(checkout: Checkout) -> None:
    assert checkout.up() == EVERYTHING
    assert checkout.up() == []


def test_an_up_to_date_environment_is_found_without_starting_a_process(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.up()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert checkout.up() == []


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("locks/dev.txt", "install_lock"),
        ("pyproject.toml", "install_project"),
        ("locks/embedded.txt", "install_missing_tools"),
        ("toolserver/new.py", "compile_sources"),
    ],
)
def test_a_changed_file_has_its_own_step_done_again(checkout: Checkout, path: str, step: str) -> None:
    checkout.up()
    (checkout.root / path).write_text("# changed\n")
    assert checkout.up() == [step]
    assert checkout.up() == []


def test_sources_are_compiled_and_one_that_is_wrong_keeps_nothing_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path, monkeypatch)
    monkeypatch.setattr(environment, "VENV_PYTHON", sys.executable)
    (tmp_path / "toolserver" / "right.py").write_text("x = 1\n")
    (tmp_path / "toolserver" / "wrong.py").write_text("x = \n")
    environment.compile_sources()
    assert [file.name.partition(".")[0] for file in tmp_path.rglob("*.pyc")] == ["right"]


def test_a_node_that_came_or_went_has_the_tools_looked_at_again(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout.up()
    write_python(tmp_path / "bin" / "node", (0, 0))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert checkout.up() == ["install_missing_tools"]


@pytest.mark.parametrize("step", EVERYTHING)
def test_a_run_that_broke_off_is_started_over(checkout: Checkout, step: str) -> None:
    checkout.failing = step
    assert checkout.up()[-1] == step
    checkout.failing = None
    assert checkout.up() == EVERYTHING


def test_an_update_that_broke_off_is_started_over(checkout: Checkout) -> None:
    checkout.up()
    environment.DEVELOPMENT_LOCK.write_text("# changed\n")
    checkout.failing = "install_lock"
    checkout.up()
    checkout.failing = None
    assert checkout.up() == EVERYTHING


def test_a_checkout_that_moved_gets_a_new_environment(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.up()
    moved = checkout.root.rename(checkout.root.with_name("moved"))
    place(moved, monkeypatch)
    assert checkout.up() == EVERYTHING


def test_a_python_that_is_gone_gets_the_environment_made_anew(checkout: Checkout, tmp_path: Path) -> None:
    checkout.up()
    environment.VENV_PYTHON.unlink()
    environment.VENV_PYTHON.symlink_to(tmp_path / "uninstalled")
    assert checkout.up() == EVERYTHING


def test_an_unreadable_stamp_counts_as_none(checkout: Checkout) -> None:
    checkout.up()
    environment.STAMP.write_text('{"root": ')
    assert checkout.up() == EVERYTHING


def test_another_wish_makes_a_new_environment_and_is_remembered(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.up()
    monkeypatch.setenv("PYTHON", sys.executable)
    assert checkout.up() == EVERYTHING
    monkeypatch.delenv("PYTHON")
    assert checkout.up() == []


def test_a_wish_that_cannot_be_met_leaves_the_environment_alone(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout.up()
    capsys.readouterr()
    monkeypatch.setenv("PYTHON", "python9.9")
    assert environment.main() == 1
    assert capsys.readouterr().err == (
        "environment: There is no Python that runs as python9.9. "
        "Name one that does: make PYTHON=/path/to/python3.12 ...\n"
    )
    monkeypatch.delenv("PYTHON")
    assert checkout.up() == []


def write_python(path: Path, version: tuple[int, int], complete: bool = True, runs: bool = True) -> Path:
    """A stand-in for an interpreter: it answers the probe, or fails like a version manager's script."""
    answer = json.dumps([str(path), list(version), complete])
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\n" if runs else "#!/bin/sh\nexit 127\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing but what the test puts here, and a running Python that is too old."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    monkeypatch.setattr(sys, "executable", str(write_python(tmp_path / "first" / "python3", (3, 9))))
    return tmp_path


def test_the_newest_tested_python_is_taken(only: Path) -> None:
    write_python(only / "first" / "python3.11", (3, 11))
    newest = write_python(only / "second" / "python3.13", (3, 13))
    write_python(only / "second" / "python3.12", (3, 12))
    assert choose_python(None) == Python(str(newest), (3, 13), complete=True)


def test_a_python_on_path_that_does_not_run_is_passed_over(only: Path) -> None:
    write_python(only / "first" / "python3.13", (3, 13), runs=False)
    behind = write_python(only / "second" / "python3.13", (3, 13))
    assert choose_python(None).path == str(behind)


def test_a_python_without_venv_is_passed_over_for_an_older_one_with_it(only: Path) -> None:
    write_python(only / "first" / "python3.13", (3, 13), complete=False)
    older = write_python(only / "first" / "python3.11", (3, 11))
    assert choose_python(None).path == str(older)


def test_the_running_python_is_taken_when_no_name_fits(only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = write_python(only / "elsewhere", (3, 14))
    monkeypatch.setattr(sys, "executable", str(running))
    assert choose_python(None).path == str(running)


def test_a_lone_python_without_venv_is_told_which_package_has_it(only: Path) -> None:
    lone = write_python(only / "first" / "python3.12", (3, 12), complete=False)
    with pytest.raises(Unfit, match=r"Run: apt-get install python3\.12-venv$") as told:
        choose_python(None)
    assert str(lone) in str(told.value)


def test_a_machine_with_too_old_a_python_is_told_what_is_needed(only: Path) -> None:
    with pytest.raises(Unfit) as told:
        choose_python(None)
    assert str(told.value) == (
        f"Python 3.11, 3.12 or 3.13 is needed, and there is only Python 3.9 ({only}/first/python3). "
        "Install one, or name one: make PYTHON=/path/to/python3.12 ..."
    )


def test_the_probe_names_the_base_of_an_environment() -> None:
    probed = environment.probe(sys.executable)
    assert probed is not None
    assert probed.version == sys.version_info[:2]
    assert Path(probed.path).samefile(Path(sys.base_prefix) / "bin" / f"python{probed.number}")
