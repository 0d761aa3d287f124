"""What an archive may hold, rule by rule: each refusal in its own words, with the member's name."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.archives import (
    Budget,
    MemberPath,
    changed_kind,
    detect,
    hard_link_source,
    is_reserved,
    member_path,
    permissions,
    refuse_leaving_symlink,
    refuse_replacing_root,
    refuse_special,
    refuse_through_link,
)
from protocol.errors import ArchiveInvalid, ArchiveUnsafe, TooLarge, ToolError
from protocol.exclusions import Exclusions
from protocol.limits import MIB, Limits
from protocol.messages.archives import ArchiveFormat
from protocol.tar import Kind, Member, pack
from tests.builder import exactly

TAR = b"".join(pack([(Member(name="a"), [])]))


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b"\x1f\x8b\x08", ArchiveFormat.GZIP),
        (b"\x28\xb5\x2f\xfd", ArchiveFormat.ZSTD),
        (b"\x5a\x2a\x4d\x18", ArchiveFormat.ZSTD),
        (TAR, ArchiveFormat.TAR),
        (TAR[:512], ArchiveFormat.TAR),
        (b"", ArchiveFormat.TAR),
    ],
)
def test_the_content_tells_the_format(head: bytes, format: ArchiveFormat) -> None:
    assert detect(head) is format


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"PK\x03\x04", "a zip file"),
        (b"BZh9", "packed by bzip2"),
        (b"\xfd7zXZ\0", "packed by xz"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
        (b"<html>", "no archive"),
        (b"\x1f", "no archive"),
    ],
)
def test_what_is_no_archive_of_ours_is_named(head: bytes, what: str) -> None:
    with pytest.raises(ArchiveInvalid, match=exactly(f"this is {what}; send tar.gz, tar.zst or plain tar")):
        detect(head)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./src/x", "src/x"),
        ("src/x", "src/x"),
        (".", "."),
        ("./", "."),
        ("a//b/./c/", "a/b/c"),
        ("...", "..."),
    ],
)
def test_names_have_one_normal_form(name: str, path: str) -> None:
    assert member_path(name) == path


NAMES = [
    ("../x", "member '../x' climbs by '..'; names in an archive stay in it"),
    ("a/../b", "member 'a/../b' climbs by '..'; names in an archive stay in it"),
    ("a/..", "member 'a/..' climbs by '..'; names in an archive stay in it"),
    ("/etc/passwd", "member '/etc/passwd' has an absolute name; pack by 'tar -C DIR .'"),
    ("a\0b", r"member 'a\x00b' has a NUL in its name, which no file system takes"),
]


@pytest.mark.parametrize(("name", "message"), NAMES)
def test_a_name_that_leads_out_is_refused(name: str, message: str) -> None:
    with pytest.raises(ArchiveUnsafe, match=exactly(message)) as refusal:
        member_path(name)
    assert refusal.value.details == {"member": name}


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ArchiveInvalid, match=exactly("a member has no name")):
        member_path("")


@pytest.mark.parametrize(
    ("name", "limit", "value"),
    [
        ("d/" * 65 + "f", "maxArchiveDepth", 64),
        ("d/" * 30 + "f" * 256, "maxNameBytes", 255),
        ("é" * 128, "maxNameBytes", 255),
        (("d" * 250 + "/") * 17, "maxPathBytes", 4096),
    ],
)
def test_a_name_past_a_limit_is_refused_with_the_limit(name: str, limit: str, value: int) -> None:
    with pytest.raises(TooLarge, match=limit) as refusal:
        member_path(name)
    assert refusal.value.details["limit"] == limit
    assert refusal.value.details["value"] == value


@pytest.mark.parametrize("name", ["d/" * 64 + "f", "f" * 255, "é" * 127])
def test_a_name_at_a_limit_is_taken(name: str) -> None:
    assert member_path(name) == name


def test_a_refusal_can_be_sent_whatever_the_name_is_made_of() -> None:
    with pytest.raises(ArchiveUnsafe) as refusal:
        member_path("../" + os.fsdecode(b"\xff") + "x" * 100_000)
    assert len(refusal.value.message) < 500
    assert str(refusal.value.details).encode()


@given(st.text(st.sampled_from("ab./"), max_size=12))
def test_a_path_that_passes_is_relative_and_stays_below(name: str) -> None:
    try:
        path = member_path(name)
    except ToolError:
        return
    assert path == "." or not set(path.split("/")) & {"", ".", ".."}
    assert path == str(PurePosixPath(name))


LINKS = [
    ("a/link", "../../x", "symlink 'a/link' -> '../../x' leaves the archive's root"),
    ("link", "..", "symlink 'link' -> '..' leaves the archive's root"),
    ("a/link", "./.././../x", "symlink 'a/link' -> './.././../x' leaves the archive's root"),
    ("link", "/etc", "symlink 'link' -> '/etc' is absolute; link to a path relative to the link"),
    ("link", "/app/x", "symlink 'link' -> '/app/x' is absolute; link to a path relative to the link"),
    ("link", "a/../b", "symlink 'link' -> 'a/../b' climbs by '..' after a name; put every '..' first"),
    ("link", "a\0", r"symlink 'link' -> 'a\x00' has a NUL in its target, which no file system takes"),
]


@pytest.mark.parametrize(("path", "target", "message"), LINKS)
def test_a_symlink_that_leads_out_is_refused(path: str, target: str, message: str) -> None:
    with pytest.raises(ArchiveUnsafe, match=exactly(message)) as refusal:
        refuse_leaving_symlink(path, target)
    assert refusal.value.details == {"member": path, "target": target}


@pytest.mark.parametrize(
    ("path", "target"), [("link", "a/b"), ("a/b/link", "../../c"), ("a/link", ".."), ("l", ".")]
)
def test_a_symlink_that_stays_is_taken(path: str, target: str) -> None:
    refuse_leaving_symlink(path, target)


def test_a_symlink_to_nothing_or_too_far_is_refused() -> None:
    with pytest.raises(ArchiveInvalid, match=exactly("symlink 'l' points at nothing")):
        refuse_leaving_symlink("l", "")
    with pytest.raises(TooLarge, match="maxPathBytes"):
        refuse_leaving_symlink("l", "x" * 4096)


_DEPTH_2 = [f"{a}/{b}" for a in "ab" for b in "ab"]
_TARGETS = st.lists(st.sampled_from(["a", "b", "..", "."]), min_size=1, max_size=5).map("/".join)
_LINKS = st.dictionaries(st.sampled_from(["a", "b", *_DEPTH_2, *(f"{d}/a" for d in _DEPTH_2)]), _TARGETS)


@example({"a/b": "..", "b": "a/b/.."})
@given(_LINKS)
def test_links_that_pass_one_by_one_cannot_lead_out_together(links: dict[str, str]) -> None:
    passed: dict[str, str] = {}
    for path, target in links.items():
        try:
            refuse_leaving_symlink(path, target)
            refuse_through_link(path, passed)
        except ToolError:
            continue
        if not any(other.startswith(path + "/") for other in passed):
            passed[path] = target
    for path, target in passed.items():
        _resolves_inside(passed, PurePosixPath(path).parent.parts, target.split("/"))


def _resolves_inside(links: dict[str, str], above: tuple[str, ...], rest: list[str], hops: int = 0) -> None:
    """Follow names as the kernel does; assert that no step climbs above the root."""
    while rest and hops < 40:
        part, *rest = rest
        if part == "..":
            assert above, "it leads out"
            above = above[:-1]
        elif part != ".":
            target = links.get("/".join((*above, part)))
            if target is None:
                above = (*above, part)
            else:
                rest, hops = target.split("/") + rest, hops + 1


def test_a_hard_link_is_judged_as_the_name_it_is() -> None:
    assert hard_link_source("b", "./a") == "a"
    with pytest.raises(ArchiveUnsafe, match=r"hard link 'b' to '\.\./a' climbs"):
        hard_link_source("b", "../a")
    with pytest.raises(ArchiveUnsafe, match="hard link 'b' to '/a' has an absolute name"):
        hard_link_source("b", "/a")


@pytest.mark.parametrize(
    ("kind", "told"),
    [(Kind.FIFO, "fifo"), (Kind.BLOCK_DEVICE, "block device"), (Kind.CHARACTER_DEVICE, "character device")],
)
def test_devices_and_fifos_are_refused(kind: Kind, told: str) -> None:
    message = f"member 'x' is a {told}; only files, directories and links are taken"
    with pytest.raises(ArchiveUnsafe, match=exactly(message)):
        refuse_special(Member(name="x", kind=kind))


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.SYMLINK, Kind.HARD_LINK])
def test_the_root_stays_a_directory(kind: Kind) -> None:
    with pytest.raises(ArchiveUnsafe, match=r"member '\./' is the archive's root, but a"):
        refuse_replacing_root(Member(name="./", kind=kind), MemberPath("."))
    refuse_replacing_root(Member(name="./", kind=Kind.DIRECTORY), MemberPath("."))


def test_a_member_through_a_link_is_refused() -> None:
    refuse_through_link("a/b", {"a/b", "c"})
    refuse_through_link("ab/c", {"a"})
    with pytest.raises(ArchiveUnsafe, match=exactly("member 'a/b/c' would be written through the link 'a'")):
        refuse_through_link("a/b/c", {"a"})


def test_one_name_of_two_kinds_is_told_with_both() -> None:
    assert changed_kind("a", "link", "directory").message == (
        "member 'a' is in the archive twice, first as a link, then as a directory"
    )


def test_set_uid_and_its_like_are_taken_off() -> None:
    assert permissions(0o7755) == 0o755


def test_the_tool_servers_own_directory_is_known_at_the_root_only() -> None:
    assert is_reserved(".workspace-core")
    assert not is_reserved("a/.workspace-core")
    assert not is_reserved(".workspace-core-notes")


LIMITS = Limits(
    max_archive_entries=2,
    max_unpacked_bytes=100 * MIB,
    max_archive_bytes=1000,
    max_archive_ratio=10,
    archive_ratio_free_bytes=64 * MIB,
)


def test_the_entry_past_the_limit_is_refused() -> None:
    budget = Budget(LIMITS)
    budget.member(Member(name="a"))
    budget.member(Member(name="b"))
    message = "the archive has more than 2 entries; 'c' is one too many (maxArchiveEntries)"
    with pytest.raises(TooLarge, match=exactly(message)) as refusal:
        budget.member(Member(name="c"))
    assert refusal.value.details == {"limit": "maxArchiveEntries", "value": 2, "member": "c"}


def test_a_declared_size_past_the_limit_is_refused_before_it_comes() -> None:
    budget = Budget(LIMITS)
    budget.member(Member(name="a", size=60 * MIB))
    with pytest.raises(TooLarge, match=r"more than 104857600 bytes with member 'b' \(maxUnpackedBytes\)"):
        budget.member(Member(name="b", size=60 * MIB))


def test_a_stream_past_a_limit_is_refused() -> None:
    budget = Budget(LIMITS)
    budget.took_packed(1000)
    with pytest.raises(TooLarge, match="maxArchiveBytes"):
        budget.took_packed(1)
    with pytest.raises(TooLarge, match="maxUnpackedBytes"):
        budget.took_unpacked(100 * MIB + 1)


def test_the_ratio_is_judged_past_what_is_free_of_it() -> None:
    budget = Budget(LIMITS)
    budget.took_packed(10)
    budget.took_unpacked(LIMITS.archive_ratio_free_bytes + 100)
    message = "the archive unpacks to more than 10 times its size (maxArchiveRatio)"
    with pytest.raises(TooLarge, match=exactly(message)):
        budget.took_unpacked(1)


DEFAULT = Exclusions.default()


@pytest.mark.parametrize(
    "path",
    [
        "node_modules", "a/node_modules", "a/node_modules/b/c.js", ".git", ".git/HEAD",
        "packages/a/.git", "dist", "dist/a", "build", ".next", ".nuxt", ".output", ".vercel",
        ".netlify", "coverage", ".nyc_output", "x.log", "a/x.log", ".DS_Store", "a/Thumbs.db", ".env",
        ".env.local", "a/.env.production", ".vscode", ".idea", "a.swp", "a.swo", "a~", ".cache",
        "a/.cache/b", ".tmp", "tmp", "tmp/a", ".astro", ".workspace-core", ".workspace-core/new/a",
    ],
)  # fmt: skip
def test_what_is_built_installed_or_private_stays_out(path: str) -> None:
    assert DEFAULT.excludes(path)


@pytest.mark.parametrize(
    "path",
    [
        "src/build/keep.ts", "src/dist", "a/tmp", "packages/a/coverage", ".env.example",
        "a/.env.example", "src", "git", ".gitignore", "environment.ts", "log", "x.log.ts", "building",
        "a/.workspace-core", "new\nline.log.x",
    ],
)  # fmt: skip
def test_what_somebody_wrote_goes_along(path: str) -> None:
    assert not DEFAULT.excludes(path)


def test_the_last_rule_that_matches_decides() -> None:
    rules = DEFAULT.with_rules(exclude=[".env.example", "*.mp4"], include=["/dist", "intro.mp4"])
    assert rules.excludes(".env.example")
    assert rules.excludes("a/b.mp4")
    assert not rules.excludes("a/intro.mp4")
    assert not rules.excludes("dist/index.html")
    assert rules.excludes("build/index.html")


def test_what_lies_in_an_excluded_directory_is_excluded_whatever_is_said_of_it() -> None:
    assert DEFAULT.with_rules(include=["node_modules/mine"]).excludes("node_modules/mine")


def test_a_pattern_with_a_path_counts_from_the_root() -> None:
    rules = Exclusions.nothing().with_rules(exclude=["src/gen*", "/public/*.map"])
    assert rules.excludes("src/generated/a")
    assert rules.excludes("public/a.map")
    assert not rules.excludes("a/src/generated")
    assert not rules.excludes("public/a/b.map")


def test_a_slash_at_the_end_means_directories_alone() -> None:
    rules = Exclusions.nothing().with_rules(exclude=["out/"])
    assert rules.excludes("a/out", is_directory=True)
    assert rules.excludes("a/out/x")
    assert not rules.excludes("a/out")


def test_the_tool_servers_own_directory_cannot_be_included() -> None:
    assert Exclusions.nothing().with_rules(include=[".workspace-core", "*"]).excludes(".workspace-core/a")


@pytest.mark.parametrize("pattern", ["", "/", "../a", "a/../b", "./a", "a\0"])
def test_a_pattern_that_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ToolError, match="can match no path; write a name"):
        DEFAULT.with_rules(exclude=[pattern])


_PATHS = st.lists(
    st.sampled_from(["a", "dist", ".env", ".env.example", "x.log", "node_modules"]), min_size=1, max_size=4
)


@given(_PATHS)
def test_a_walk_that_judges_entries_agrees_with_whole_paths(parts: list[str]) -> None:
    walked = any(
        DEFAULT.excludes_entry("/".join(parts[:end]), is_directory=end < len(parts))
        for end in range(1, len(parts) + 1)
    )
    assert DEFAULT.excludes("/".join(parts)) is walked
