"""The whole tree as states, brought up to date by reading only what the index shows as changed.

The index makes a new entry for whatever it looks at again, so an entry that is the very same object stands
for a file that nobody has touched: ten thousand of them are passed over in less than a millisecond.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

from protocol.limits import Limits
from toolserver.system.capture import Capture, is_kept
from toolserver.system.checkpoint_store import Store
from toolserver.system.disk import Disk
from toolserver.system.past import ABSENT, Identity, State
from toolserver.system.tree_index import Entry


class Mirror:
    """Every path that checkpoints keep, as it was at the last ``refresh``. One thread at a time."""

    def __init__(self, disk: Disk, store: Store, limits: Limits) -> None:
        self._disk = disk
        self._store = store
        self._limits = limits
        self._generation = -1
        self._seen: dict[str, Entry] = {}
        self.states: dict[str, State] = {}
        self.outside: set[str] = set()
        """Directories whose content no checkpoint holds."""
        self.stored = 0
        """Bytes that the last refresh has read."""

    def refresh(self, entries: dict[str, Entry]) -> dict[str, State]:
        """Bring ``states`` to what the index has; contents are in the store afterwards."""
        if self._generation != self._store.generation:
            self._seen, self.states, self.outside = {}, dict(self._store.known()), set()
        self._generation = self._store.generation
        seen, states = self._seen, self.states
        differing = [path for path, entry in entries.items() if seen.get(path) is not entry]
        gone = [path for path in states if path not in entries]
        capture = Capture(self._disk, self._store, self._limits.max_checkpoint_file_bytes)
        found: dict[str, State] = {}
        for path in differing:
            if self._is_kept(path, entries[path]):
                found[path] = _unchanged(states.get(path), entries[path]) or capture.state(path)
        capture.flush()
        self.stored = capture.stored
        unsettled = [path for path, state in found.items() if state.identity[2] < 0]
        for path in gone:
            del states[path]
        for path, state in found.items():
            if state.exists:
                states[path] = state
            else:
                states.pop(path, None)
        self.outside &= entries.keys()
        self._seen = entries
        for path in unsettled:
            del entries[path]
        return states

    def by_identity(self) -> dict[tuple[Identity, int], bytes]:
        """Contents by what a file is known again by, wherever it lies by now."""
        if self._generation != self._store.generation:
            return {}
        return {
            (state.identity, state.size): state.content
            for state in self.states.values()
            if state.is_file and state.content is not None
        }

    def _is_kept(self, path: str, entry: Entry) -> bool:
        is_directory = stat.S_ISDIR(entry.mode)
        if is_kept(path, is_directory):
            self.outside.discard(path)
            return True
        if is_directory:
            self.outside.add(path)
        return False


def _unchanged(known: State | None, entry: Entry) -> State | None:
    """What is known of a path, when the index shows it as that."""
    if known is None or known.mode != entry.mode or known.is_unkept:
        return None
    if known.is_directory:
        return known
    same = (known.size, known.identity) == (entry.size, (entry.inode, entry.modified_ns, entry.changed_ns))
    return known if same else None


def differing(known: Mapping[str, State], states: Mapping[str, State]) -> dict[str, State]:
    """What has to be written of ``states`` beside ``known``, ABSENT for what is gone."""
    changed = {path: state for path, state in states.items() if known.get(path) is not state}
    changed = {path: state for path, state in changed.items() if known.get(path, ABSENT) != state}
    changed.update({path: ABSENT for path in known if path not in states})
    return changed
