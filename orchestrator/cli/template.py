"""``workspace template list``, ``validate``, ``migrate`` and ``dev``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import completing
from orchestrator.cli.common import CommandGroup, Options, host_options, json_option, print_json, tell
from orchestrator.cli.setting import set_option

if TYPE_CHECKING:
    from orchestrator.template_checks import Finding, Report

_EACH_KIND = 5


@click.group(cls=CommandGroup, short_help="List, check and write templates.")
def template() -> None:
    """Templates: directories of files, in ./templates or come with this package."""


@template.command("list", short_help="List templates.")
@json_option
def list_(as_json: bool) -> None:
    """List the templates that `workspace up` knows by name."""
    from orchestrator.templates import template_directories, template_roots

    found = template_directories(template_roots(Path.cwd()))
    rows = [_row(name, directory) for name, directory in sorted(found.items())]
    if as_json:
        print_json(rows)
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {row['description']}")


def _row(name: str, directory: Path) -> dict[str, Any]:
    from orchestrator.templates import read_template
    from protocol.errors import ToolError

    try:
        found = read_template(directory)
    except ToolError as error:  # a broken one must not hide the others
        return {"name": name, "path": str(directory), "description": f"broken: {error.message}"}
    return {"name": name, "path": str(directory), "description": found.description or found.name or ""}


@template.command(short_help="Check templates.")
@click.argument("names", nargs=-1, metavar="[TEMPLATE|DIR]...", shell_complete=completing.template_names)
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@json_option
def validate(names: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Check templates, all of them when none is named. Exit code 1 when one has an error."""
    reports = _reports(names)
    if as_json:
        print_json([as_data(report, strict) for report in reports])
    else:
        for report in reports:
            _print(report, strict)
    if not all(report.ok(strict) for report in reports):
        raise click.exceptions.Exit(1)


@template.command(short_help="Rewrite an older template.json.")
@click.argument("directory", metavar="TEMPLATE|DIR", shell_complete=completing.template_names)
@click.option("--write", is_flag=True, help="Replace template.json, instead of printing what it would be.")
@json_option
def migrate(directory: str, write: bool, as_json: bool) -> None:
    """Print DIR's template.json, in its older form of nested groups, as it is written today.

    What has no place today is left out, and each such field is told on stderr. Exit code 1, and nothing is
    written, when it is no older form.
    """
    from orchestrator.template_migration import migrate as migrate_

    done = migrate_(_directory(directory), write)
    if as_json:
        print_json({"template": done.template, "remarks": done.remarks, "written": write})
        return
    for remark in done.remarks:
        tell(remark)
    click.echo(f"{done.file} is rewritten" if write else done.text, nl=write)


def _directory(wanted: str) -> Path:
    from orchestrator.templates import template_directories, template_roots
    from protocol.errors import NotFound

    known = template_directories(template_roots(Path.cwd()))
    found = known.get(wanted, Path(wanted).expanduser())
    if not found.is_dir():
        raise NotFound(
            f"there is no template or directory {wanted!r}; templates are {', '.join(sorted(known))}"
        )
    return found


@template.command(short_help="Bring a template up, and push what you save in it.")
@click.argument("directory", metavar="TEMPLATE|DIR", shell_complete=completing.template_names)
@click.option("--port", type=click.IntRange(0, 65535), help="The tool server's port, as for `up`.")
@click.option("--dev-port", type=click.IntRange(1, 65535), help="The dev server's port, as for `up`.")
@click.option("--backend", default="local", show_default=True, help="Where it runs, as for `up`.")
@set_option
@host_options
def dev(
    options: Options,
    directory: str,
    port: int | None,
    dev_port: int | None,
    backend: str,
    given: dict[str, str],
) -> None:
    """Bring a workspace up from DIR, and keep it like DIR: what is saved, renamed or deleted there goes in.

    A change of package.json, of a lock file, or of how template.json starts it installs anew and starts the
    dev server again. Ctrl-C ends it; the directory is never written to.
    """
    from orchestrator.cli.template_dev import run

    raise click.exceptions.Exit(run(options, directory, (port, dev_port), backend, given))


@template.command(short_help="Install templates' packages in advance.")
@click.argument("names", nargs=-1, metavar="TEMPLATE|DIR...", shell_complete=completing.template_names)
@click.option("--backend", default="local", show_default=True, help="Where it is installed, as for `up`.")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put the packs into this directory, instead of the data directory's store.",
)
@host_options
def warm(options: Options, names: tuple[str, ...], backend: str, target: Path | None) -> None:
    """Install the packages of templates in clean sandboxes, and keep them for all users' workspaces.

    A workspace with the same lock file, package manager and Node then takes them from there, without a
    network. Without a name, all templates that have a lock file are warmed.
    """
    from orchestrator.cli.warming import warm as warm_

    done = warm_(options, names, backend, target)
    if options.as_json:
        print_json([{**each, "path": str(each["path"])} for each in done])


def _reports(names: tuple[str, ...]) -> list[Report]:
    from orchestrator.template_checks import check_template
    from orchestrator.templates import template_directories, template_roots

    wanted = [_directory(name) for name in names]
    if not names:
        wanted = [path for _, path in sorted(template_directories(template_roots(Path.cwd())).items())]
    return [check_template(directory.resolve().name, directory) for directory in wanted]


def _print(report: Report, strict: bool) -> None:
    from orchestrator.units import count_text, size_text

    verdict = "ok" if report.ok(strict) else "refused"
    size = f" ({count_text(report.files, 'file')}, {size_text(report.content_bytes)})"
    # Of one that could not be read nothing was counted.
    click.echo(f"{report.name}: {verdict}{size if report.template else ''}")
    for line in lines(report.findings):
        click.echo(f"  {line}")


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The first few of each kind, and how many more there are: a wrong directory has hundreds."""
    for _, group in itertools.groupby(findings, key=lambda finding: finding.kind):
        same = list(group)
        yield from (f"{each.level}: {each.path}: {each.message}" for each in same[:_EACH_KIND])
        if len(same) > _EACH_KIND:
            yield f"… and {len(same) - _EACH_KIND} more like these (--json has them all)"


def as_data(report: Report, strict: bool) -> dict[str, Any]:
    """A report for programs."""
    return {
        "name": report.name,
        "path": str(report.path),
        "ok": report.ok(strict),
        "files": report.files,
        "contentBytes": report.content_bytes,
        "findings": [
            {"level": each.level, "path": each.path, "message": each.message} for each in report.findings
        ],
    }
