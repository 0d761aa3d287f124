"""Every bound in one table: its value, its unit, and why it is that.

A bound that ends a request is named in the error's ``details``: the field's name here, in camelCase.
"""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one tool server. Sizes are bytes, times milliseconds."""

    max_frame_bytes: int = 16 * MIB
    """One WebSocket frame or one JSON body: an 11 MiB file as base64 fits; larger content has raw doors."""

    max_header_bytes: int = 16 * KIB
    """One header of a request, or its first line: a path of ``max_path_bytes``, percent-encoded, fits."""

    max_headers: int = 128
    """Headers of one request; browsers behind two proxies send some 40."""

    header_timeout_ms: int = 20_000
    """From a connection, or from a request's first byte on it, until its last header. Others have 20 s
    (Apache) to 60 s (Node)."""

    body_stall_ms: int = 60_000
    """Between two pieces of a request's body: a disk that stalls the sender is waited for."""

    min_body_bytes_per_second: int = 256
    """Of a body that takes longer than ``body_stall_ms``, on average: who sends a byte now and then is no
    sender. A gut feeling."""

    idle_connection_ms: int = 620_000
    """A connection between two requests; longer than the proxies before it wait, some 600 s at most."""

    max_sockets: int = 3_072
    """Connections of one user that work: WebSockets, and others while a request is under way. The last
    quarter is for the others."""

    max_sockets_in_all: int = 4_096
    """Connections in all, WebSockets among them: some 100 MB of memory. When there are more, those go first
    that ask nothing at the moment; only then a new one is refused."""

    max_open_files: int = 16_384
    """Descriptors of the daemon, as far as the system lets it raise its own limit. The last quarter, 256 at
    most, are kept for operations that run: no new connection gets one."""

    max_spent_tokens: int = 10_000
    """Ids of revoked tokens and used addresses that are remembered until those expire: 1 MB on the disk. The
    last quarter is for addresses. Who revokes more in a day has another trouble."""

    max_requests_per_second: int = 8_000
    """Of one caller, on average: ten seconds' worth may come at once. A busy page has some hundreds; more
    than this is a loop that went wrong."""

    max_requests_per_second_in_all: int = 16_000
    """Of all callers: more than one core answers."""

    max_operations: int = 3_072
    """Operations of one user under way, through all doors: the last quarter is for the others."""

    max_operations_in_all: int = 4_096
    """Operations under way, of all users."""

    reserved_disk_bytes: int = 64 * MIB
    """Kept free on the workspace's disk, or a hundredth of it where that is less: operations that write are
    refused before, and builds and package managers, which meet the disk itself, leave halves behind."""

    reserved_disk_entries: int = 2_000
    """Inodes kept free likewise, where the file system counts them."""

    max_workspace_bytes: int = 0
    """What the workspace's files take on the disk; 0 for as much as there is. It is looked at again every ten
    seconds while operations write: a command's files count from the next look on."""

    max_audit_entries: int = 10_000
    """Lines of ``audit`` in memory: some 5 MB."""

    max_audit_bytes: int = 16 * MIB
    """The files of ``audit`` in the state directory, both together, or a thousandth of the disk where that is
    less; then the older one goes."""

    max_read_bytes: int = 10 * MIB
    """One file given back whole by ``read``: its base64 stays under a frame."""

    max_reads: int = 200
    """Files in one ``read_many``."""

    max_write_bytes: int = 10 * MIB
    """One file's content in ``write`` or ``edit``."""

    max_edit_files: int = 1_000
    """Files that one ``edit`` or ``replace`` changes."""

    max_edit_bytes: int = 256 * MIB
    """Content, before the change, of all files of one ``edit`` or ``replace``: it is held in memory."""

    max_edit_diff_bytes: int = 4 * MIB
    """Of all diffs in one answer, which holds each twice; files past it are told without."""

    max_upload_bytes: int = 8 * GIB
    """One file's content over ``/v1/files``, which streams: as much as an archive's content."""

    max_path_bytes: int = 4096
    """A path: the kernel's PATH_MAX."""

    max_list_entries: int = 10_000
    """Entries in one ``list`` answer; a node_modules directory of one level is far below."""

    max_indexed_entries: int = 500_000
    """Files and directories that are followed for changes: some 150 MB of memory, of a tree as large."""

    max_kept_changes: int = 20_000
    """Changes kept for ``watch`` with ``since``; whoever needs older ones is told to look again."""

    max_checkpoints: int = 100
    """Checkpoints that were asked for; then the oldest tenth of them goes."""

    max_kept_edits: int = 1_000
    """Requests that can be undone: what they changed, as it was; then the oldest tenth goes."""

    max_checkpoint_bytes: int = 1 * GIB
    """Contents of all checkpoints and undoable requests, as kept; then the oldest go, requests first."""

    max_checkpoint_file_bytes: int = 32 * MIB
    """A larger file is noted in a checkpoint, and its content is not kept."""

    max_undo_bytes: int = 64 * MIB
    """Old content kept for one request; one that changes more happens, and cannot be undone."""

    max_undo_entries: int = 20_000
    """Paths of one request that can be undone, such as the removal of a directory."""

    max_diff_bytes: int = 512 * KIB
    """Text of all diffs in one ``checkpoint_diff``; the changes beyond it are named without."""

    max_matches: int = 1_000
    """Matches in one ``search`` answer when the request names no number."""

    max_match_text_bytes: int = 2 * KIB
    """Text kept of one matching line, so that a minified bundle does not fill the answer."""

    max_output_bytes: int = 1 * MIB
    """Bytes per stream in a ``command`` answer; the middle is left out and counted."""

    max_kept_output_bytes: int = 64 * MIB
    """Output kept for replay, per stream and process: the newest in memory, the rest in an unlinked file.
    Older bytes become a counted gap."""

    max_kept_processes: int = 256
    """Ended processes whose record is kept for ``attach``; the oldest go first."""

    max_kept_output_in_all_bytes: int = 1 * GIB
    """Output of all ended processes together; the oldest records go first."""

    max_kept_process_age_ms: int = 24 * 60 * 60 * 1000
    """From a process's end until its record goes: who comes back the next day still finds it. A gut
    feeling."""

    max_reader_lag_bytes: int = 4 * MIB
    """How far a reader that asked for ``drop`` may be behind a stream's newest byte."""

    reader_patience_ms: int = 10_000
    """How long a command waits for a reader that asked for ``wait`` and takes nothing. A gut feeling."""

    max_queued_input_bytes: int = 1 * MIB
    """Taken by ``send_input`` for one command and not yet in its pipe; beyond it the sender waits."""

    max_waiting_input_bytes: int = 32 * MIB
    """In ``send_input`` requests to one command that wait for room, two full frames; more are refused."""

    input_wait_ms: int = 30_000
    """A ``send_input`` that names no ``yieldMs`` waits so long for room, then tells what was taken."""

    max_processes: int = 768
    """Commands of one user running at the same time: the last quarter is for the others."""

    max_processes_in_all: int = 1_024
    """Commands running at the same time, of all users and the tool server's own."""

    max_shells: int = 24
    """Kept shells that one user was the first to ask for, by name; one that ended counts until it is
    stopped."""

    max_shells_in_all: int = 32
    """Kept shells of all users."""

    max_shell_queue: int = 16
    """Commands that wait for their turn in one kept shell."""

    max_shell_command_bytes: int = 1 * MIB
    """Text of one command for a kept shell; bash reads it byte by byte, and a file holds any script."""

    max_kept_shell_commands: int = 32
    """Commands of one kept shell whose output is kept for ``shell_output``; the oldest go first."""

    max_open_shell_outputs: int = 128
    """Earlier commands of one kept shell whose output something in the background still holds open."""

    shell_interrupt_ms: int = 1_000
    """Between INT and TERM, and TERM and KILL, when a kept shell's command is interrupted."""

    max_viewers: int = 64
    """Viewers of one terminal."""

    max_viewer_lag_bytes: int = 256 * KIB
    """How far a terminal's viewer may be behind; then it is sent the screen instead of what it missed."""

    max_in_flight: int = 1_024
    """Requests under way on one WebSocket."""

    max_queued_frames: int = 64
    """Frames waiting for one WebSocket's reader; beyond it only that reader's own operations wait."""

    max_bulky_answers: int = 8
    """Answers of megabytes (contents, diffs, matches) that wait for one WebSocket's reader; 80 MiB of the
    largest. The next ones are made when those are taken."""

    max_archive_bytes: int = 2 * GIB
    """An archive as sent."""

    max_unpacked_bytes: int = 8 * GIB
    """An archive's content once unpacked."""

    max_archive_ratio: int = 200
    """Unpacked bytes per packed byte, past what is free of it; gzip itself can reach 1032."""

    archive_ratio_free_bytes: int = 1 * GIB
    """Unpacked bytes that the ratio does not judge: a workspace may hold a large file of zeros."""

    max_archive_entries: int = 500_000
    """Members of an archive: ten times a large node_modules."""

    max_archive_depth: int = 64
    """Directories above a member. A gut feeling: deep node_modules reach 25."""

    max_kept_manifests: int = 16
    """Saves whose manifest is kept, to take deltas since them; then the oldest goes."""

    max_manifest_bytes: int = 256 * MIB
    """Of all manifests as kept, some 60 bytes an entry; beyond it only the newest stay."""

    max_removed_bytes: int = 64 * MIB
    """The list of what a delta removes: a million paths of 64 bytes."""

    command_timeout_ms: int = 600_000
    """A foreground command that names no ``timeoutMs``."""

    install_timeout_ms: int = 900_000
    """An install that names no ``timeoutMs``; a cold Astro install took 31 s on two cores."""

    max_store_bytes: int = 4 * GIB
    """Packs of a workspace owner's dependency store; then the least recently used go. An Astro site's has
    0.2 GiB."""

    max_spares: int = 1
    """Of each pack in that store: trees unfolded in advance, for workspaces to come. They count in its
    bytes, and go first."""

    store_delay_ms: int = 2_000
    """From an install until its packages are kept, and a dev server that starts by then is waited for."""

    ready_timeout_ms: int = 120_000
    """From dev server start to its first good answer; Astro took 5.9 s on two cores."""

    max_dev_restarts: int = 5
    """Of a dev server that ends by itself again and again; then it stays ended, until somebody starts it."""

    dev_restart_delay_ms: int = 250
    """Before the first of them; doubled for each further one: 8 s in all for five. A gut feeling."""

    dev_steady_ms: int = 60_000
    """Ready for so long, its earlier ends do not count any more."""

    stop_grace_ms: int = 3_000
    """Between TERM and KILL; three of them stay inside the 10 s that a container engine gives."""

    max_listed_members: int = 1_000
    """Processes of one command in an answer of ``processes``; a build of many parts has some dozens."""

    command_nice: int = 5
    """By how much commands give way to the tool server, in steps of nice, up to 19; 0 for not at all. Dev
    servers, installs and searches do not."""

    command_open_files: int = 0
    """Descriptors of each process of a command; 0 for as many as the daemon's own."""

    command_processes: int = 0
    """Processes and threads of a command with all it starts, where control groups may be written; 0 for no
    limit. Elsewhere those of the user that commands run as, the daemon's too if he is its own; none for
    root."""

    command_memory_bytes: int = 0
    """Memory of a command with all it starts, swap included, where control groups may be written; 0 for no
    limit. Elsewhere that of its own (data, heap, private maps) of each process."""

    command_cpus: float = 0
    """Processors that a command with all it starts may keep busy: 1.5 for one and a half; 0 for no limit.
    Only where control groups may be written."""

    command_cpu_seconds: int = 0
    """Processor time of each process of a command, which then gets SIGXCPU; 0 for no limit."""

    kill_wait_ms: int = 2_000
    """After KILL, until who is still there counts as a survivor: to take down much takes a moment."""


REFUSALS: dict[str, str] = {
    **dict.fromkeys(
        (
            "max_frame_bytes",
            "max_header_bytes",
            "max_headers",
            "max_read_bytes",
            "max_write_bytes",
            "max_edit_files",
            "max_edit_bytes",
            "max_upload_bytes",
            "max_path_bytes",
            "max_checkpoint_bytes",
            "max_checkpoint_file_bytes",
            "max_shell_command_bytes",
            "max_archive_bytes",
            "max_unpacked_bytes",
            "max_archive_ratio",
            "max_archive_entries",
            "max_archive_depth",
            "max_removed_bytes",
        ),
        "too_large",
    ),
    **dict.fromkeys(
        (
            "max_sockets",
            "max_sockets_in_all",
            "max_open_files",
            "max_operations",
            "max_operations_in_all",
            "max_in_flight",
            "max_processes",
            "max_processes_in_all",
            "max_shells",
            "max_shells_in_all",
            "max_shell_queue",
            "max_open_shell_outputs",
            "max_viewers",
            "max_waiting_input_bytes",
            "max_spent_tokens",
        ),
        "busy",
    ),
    **dict.fromkeys(("max_requests_per_second", "max_requests_per_second_in_all"), "rate_limited"),
    **dict.fromkeys(("header_timeout_ms", "body_stall_ms", "min_body_bytes_per_second"), "timeout"),
    **dict.fromkeys(("reserved_disk_bytes", "reserved_disk_entries", "max_workspace_bytes"), "no_space"),
    "max_reads": "invalid_request",
    "max_indexed_entries": "unavailable",
}
"""Which limits refuse a request, and by which error."""
