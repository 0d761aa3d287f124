"""THE table: every operation once, with its request, its answer, its events and the scope it needs.

The HTTP routes, the WebSocket dispatcher, the schema, the Python client and the CLI's ``call`` are read from
here. A new operation is a Struct, a line in this table, and a handler of the same name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from protocol.messages import (
    access,
    activity,
    archives,
    audit,
    checkpoints,
    commands,
    devserver,
    diagnostics,
    edits,
    files,
    places,
    processes,
    search,
    separation,
    shells,
    terminals,
    watch,
)
from protocol.messages.base import Answer, Log, Request
from protocol.tokens import Scope

__all__ = ["NAME", "OPERATIONS", "Operation", "Scope"]


@dataclass(frozen=True)
class Operation:
    """One request type with its answer, and the events that may come before it."""

    name: str
    request: type[Request]
    answer: type[Answer]
    scope: Scope
    """What a token must be good for."""
    events: Any = None
    """A Struct or a union of Structs; None when the operation has none."""
    bulky: bool = False
    """Its answer may be megabytes: a socket that nobody reads holds only a few of those."""
    confined: bool = False
    """It reaches only the paths that it names, so that a token for one directory is good for it."""

    @property
    def doc(self) -> str:
        """One line, for people and agents: the first of the request's docstring."""
        return (self.request.__doc__ or "").partition("\n")[0].replace("``", "`")

    @property
    def streams(self) -> bool:
        """Whether events may come before the answer."""
        return self.events is not None


_TABLE = (
    Operation("read", files.Read, files.ReadAnswer, Scope.READ, bulky=True, confined=True),
    Operation("read_many", files.ReadMany, files.ReadManyAnswer, Scope.READ, bulky=True, confined=True),
    Operation("write", files.Write, files.WriteAnswer, Scope.WRITE, confined=True),
    Operation("list", files.List, files.ListAnswer, Scope.READ, bulky=True, confined=True),
    Operation("stat", files.Stat, files.StatAnswer, Scope.READ, confined=True),
    Operation("mkdir", places.Mkdir, places.MkdirAnswer, Scope.WRITE, confined=True),
    Operation("move", places.Move, places.MoveAnswer, Scope.WRITE, confined=True),
    Operation("copy", places.Copy, places.CopyAnswer, Scope.WRITE, confined=True),
    Operation("remove", places.Remove, places.RemoveAnswer, Scope.WRITE, confined=True),
    Operation("chmod", places.Chmod, places.ChmodAnswer, Scope.WRITE, confined=True),
    Operation("checkpoint", checkpoints.Checkpoint, checkpoints.CheckpointAnswer, Scope.WRITE),
    Operation("checkpoints", checkpoints.Checkpoints, checkpoints.CheckpointsAnswer, Scope.READ),
    Operation(
        "checkpoint_diff",
        checkpoints.CheckpointDiff,
        checkpoints.CheckpointDiffAnswer,
        Scope.READ,
        bulky=True,
    ),
    Operation("rollback", checkpoints.Rollback, checkpoints.RollbackAnswer, Scope.WRITE),
    Operation("undo", checkpoints.Undo, checkpoints.RollbackAnswer, Scope.WRITE),
    Operation("redo", checkpoints.Redo, checkpoints.RollbackAnswer, Scope.WRITE),
    Operation("activity", activity.Activity, activity.ActivityAnswer, Scope.READ),
    Operation("audit", audit.Audit, audit.AuditAnswer, Scope.ADMIN, audit.AuditLine, bulky=True),
    Operation("separation", separation.Separation, separation.SeparationAnswer, Scope.READ),
    Operation("watch", watch.Watch, watch.WatchAnswer, Scope.READ, watch.WatchEvent, confined=True),
    Operation(
        "search", search.Search, search.SearchAnswer, Scope.READ, search.Matches, bulky=True, confined=True
    ),
    Operation("edit", edits.Edit, edits.EditAnswer, Scope.WRITE, bulky=True, confined=True),
    Operation("replace", edits.Replace, edits.ReplaceAnswer, Scope.WRITE, bulky=True, confined=True),
    Operation("command", commands.Command, commands.CommandAnswer, Scope.COMMAND, commands.CommandEvent),
    Operation("attach", commands.Attach, commands.CommandAnswer, Scope.COMMAND, commands.CommandEvent),
    Operation("output", commands.Output, commands.OutputAnswer, Scope.COMMAND, bulky=True),
    Operation("send_input", commands.SendInput, commands.SendInputAnswer, Scope.COMMAND),
    Operation("stop", processes.Stop, processes.StopAnswer, Scope.COMMAND),
    Operation("signal", processes.Signal, processes.SignalAnswer, Scope.COMMAND),
    Operation("wait", processes.Wait, processes.WaitAnswer, Scope.COMMAND),
    Operation("processes", processes.Processes, processes.ProcessesAnswer, Scope.COMMAND),
    Operation("ports", processes.Ports, processes.PortsAnswer, Scope.COMMAND, processes.PortEvent),
    Operation("shell", shells.Shell, shells.ShellAnswer, Scope.COMMAND, shells.ShellEvent),
    Operation("shell_output", shells.ShellOutput, shells.ShellOutputAnswer, Scope.COMMAND, bulky=True),
    Operation("shell_restart", shells.ShellRestart, shells.ShellRestartAnswer, Scope.COMMAND),
    Operation("shell_stop", shells.ShellStop, shells.ShellStopAnswer, Scope.COMMAND),
    Operation("shells", shells.Shells, shells.ShellsAnswer, Scope.COMMAND),
    Operation("terminal_open", terminals.TerminalOpen, terminals.TerminalOpenAnswer, Scope.COMMAND),
    Operation(
        "terminal_attach",
        terminals.TerminalAttach,
        terminals.TerminalAttachAnswer,
        Scope.COMMAND,
        terminals.TerminalEvent,
    ),
    Operation("resize", terminals.Resize, terminals.ResizeAnswer, Scope.COMMAND),
    Operation("terminals", terminals.Terminals, terminals.TerminalsAnswer, Scope.COMMAND),
    Operation("inject", archives.Inject, archives.InjectAnswer, Scope.ARCHIVE, archives.Unpacked),
    Operation("save", archives.Save, archives.SaveAnswer, Scope.ARCHIVE, archives.Chunk),
    Operation("install", devserver.Install, devserver.InstallAnswer, Scope.DEV, Log),
    Operation("dev_start", devserver.DevStart, devserver.DevStatusAnswer, Scope.DEV, Log),
    Operation("dev_stop", devserver.DevStop, devserver.DevStatusAnswer, Scope.DEV),
    Operation("dev_status", devserver.DevStatus, devserver.DevStatusAnswer, Scope.DEV, devserver.DevChange),
    Operation("dev_logs", devserver.DevLogs, devserver.DevLogsAnswer, Scope.DEV, Log),
    Operation("dev_feedback", diagnostics.DevFeedback, diagnostics.DevFeedbackAnswer, Scope.DEV),
    Operation("start", devserver.Start, devserver.StartAnswer, Scope.DEV, devserver.StartEvent),
    Operation("revoke", access.Revoke, access.RevokeAnswer, Scope.ADMIN),
    Operation("bind_session", access.BindSession, access.BindSessionAnswer, Scope.ADMIN),
)

NAME = re.compile(r"[a-z][a-z0-9_]*")
"""So that one name serves as URL segment, method name and MCP tool name."""

OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _TABLE}
