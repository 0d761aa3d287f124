"""Any tree that a workspace might hold, for properties."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from protocol.archives import is_reserved
from tests.trees import Directory, File, Link, Node, Tree

# Names as people and tools make them: spaces, line feeds, other scripts, a leading dot, bytes that are no
# text, and long enough that a header block has no room for them.
_NAMES = st.one_of(
    st.sampled_from(
        ["a", "b", "src", "index.html", "sp ace", "new\nline", "naïve-文件", ".hidden", "-x", "*"]
    ),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.integers(90, 120).map(lambda length: "l" * length),
    st.just(os.fsdecode(b"latin-\xe9")),
).filter(lambda name: name not in {".", ".."} and len(os.fsencode(name)) <= 255)
_OUTER_NAMES = _NAMES.filter(lambda name: not is_reserved(name))
"""In the root, where one name is the tool server's own and no content."""

_FILES = st.builds(File, st.binary(max_size=2000), st.sampled_from([0o644, 0o755, 0o600, 0o444]))
_DIRECTORIES = st.builds(Directory, st.sampled_from([0o755, 0o700, 0o555]))
_LINKS = st.builds(Link, st.sampled_from(["a", "src/x", "b" * 130, "sp ace", "naïve"]))

_LEAVES: st.SearchStrategy[Node] = st.one_of(_FILES, _LINKS)
_ANY: st.SearchStrategy[Node] = st.one_of(_FILES, _LINKS, _DIRECTORIES)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Up to a few levels of a few entries each."""
    tree: Tree = {}

    def grow(above: str, depth: int) -> None:
        for name in draw(st.lists(_NAMES if above else _OUTER_NAMES, max_size=4, unique=True)):
            node = draw(_ANY if depth else _LEAVES)
            tree[above + name] = node
            if isinstance(node, Directory):
                grow(f"{above}{name}/", depth - 1)

    grow("", 3)
    return dict(sorted(tree.items()))
