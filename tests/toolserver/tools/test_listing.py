"""list: what ignore files leave out, and where links lead."""

from __future__ import annotations

from pathlib import Path

from tests.builder import Http


async def paths(http: Http, **params: object) -> list[str]:
    return [each["path"] for each in (await http.ok("list", **params))["entries"]]


async def test_a_listing_leaves_out_what_gitignore_does_when_asked(http: Http, root: Path) -> None:
    for name in ("a.log", "keep.log", "src/b.log", "src/keep.log", "src/c.ts", "out/x", "src/gen/y"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / ".gitignore").write_text("*.log\nout/\n")
    (root / "src/.gitignore").write_text("!keep.log\n/gen\n")
    everything = await paths(http, depth=3)
    assert {"a.log", "out", "out/x", "src/b.log", "src/gen"} <= set(everything)
    asked = await paths(http, depth=3, gitignore=True)
    assert asked == [".gitignore", "src", "src/.gitignore", "src/c.ts", "src/keep.log"]
    # From a directory below, the rules above still hold.
    assert await paths(http, path="src", gitignore=True) == ["src/.gitignore", "src/c.ts", "src/keep.log"]


async def test_a_link_is_shown_as_itself_with_where_it_leads(http: Http, root: Path) -> None:
    (root / "file").write_text("x")
    links = {
        "inside": ("file", "inside"),
        "absolute": (str(root / "file"), "inside"),
        "broken": ("nowhere", "nothing"),
        "circle": ("circle", "outside"),
        "outside": ("/etc/passwd", "outside"),
        "up": ("../x", "outside"),
    }
    for name, (target, _) in links.items():
        (root / name).symlink_to(target)
    entries = {each["path"]: each for each in (await http.ok("list"))["entries"]}
    for name, (target, leads_to) in links.items():
        assert (entries[name]["kind"], entries[name]["target"]) == ("symlink", target)
        assert (name, entries[name]["leadsTo"]) == (name, leads_to)
        assert (await http.ok("stat", path=name))["leadsTo"] == leads_to
    assert entries["file"]["leadsTo"] is None
