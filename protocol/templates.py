"""template.json, and what a directory without one says of itself.

A template is a plain directory. Everything here is optional: what template.json does not tell is read off
package.json, a lock file or an index.html by ``detected_*``, pure functions of names and contents.
"""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol.codec import explained
from protocol.errors import InvalidRequest
from protocol.limits import MIB
from protocol.messages.devserver import DevStart, Install, Readiness, Restart
from protocol.package_managers import package_manager
from protocol.readiness import probe_kinds
from protocol.template_variables import Variable, refuse_bad_declarations

TEMPLATE_FILE = "template.json"
PACKAGE_FILE = "package.json"
INDEX_FILE = "index.html"
MAX_PACKAGE_BYTES = 4 * MIB
"""Of a package.json, on both sides of the wall; real ones stay under 100 kB."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Unknown keys are refused: a misspelt one would silently do nothing."""


class TemplatePort(_Strict, frozen=True, kw_only=True):
    """A port that the template's programs listen on, besides the dev server's."""

    port: int
    name: str = ""


class TemplateFiles(_Strict, frozen=True, kw_only=True):
    """``required`` must be there; ``exclude`` never leaves the template's directory."""

    required: list[str] = []
    exclude: list[str] = []


class TemplateArchive(_Strict, frozen=True, kw_only=True):
    """Rules for saves, on top of the default ones."""

    exclude: list[str] = []
    include: list[str] = []


class Template(_Strict, frozen=True, kw_only=True):
    """The content of template.json."""

    id: str | None = None
    version: str | None = None
    name: str | None = None
    description: str | None = None
    package_manager: str | None = None
    """``npm``, ``pnpm``, ``yarn`` or ``bun``, with ``@version`` if need be."""
    install_command: str | None = None
    dev_command: str | None = None
    """With ``{host}`` and ``{port}``."""
    port: int | None = None
    readiness: Readiness = Readiness()
    restart: Restart = Restart.ON_FAILURE
    restart_on: list[str] | None = None
    env: dict[str, str] = {}
    ports: list[TemplatePort] = []
    files: TemplateFiles = TemplateFiles()
    archive: TemplateArchive = TemplateArchive()
    variables: dict[str, Variable] = {}
    substitute: list[str] = []
    """The files that ``{{name}}`` is looked for in, relative to the template."""

    def install_request(self) -> Install:
        """The ``install`` that this template asks for."""
        return Install(command=self.install_command, package_manager=self.package_manager, env=self.env)

    def dev_request(self) -> DevStart:
        """The ``dev_start`` that this template asks for."""
        return DevStart(
            command=self.dev_command,
            port=self.port,
            env=self.env,
            readiness=self.readiness,
            restart=self.restart,
            restart_on=self.restart_on,
        )


def parse_template(data: bytes) -> Template:
    """A template.json's content; raises InvalidRequest naming the key and, if near, the one that was meant.

    >>> parse_template(b'{"devComand": "x"}')
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: template.json: unknown field 'devComand'; did you mean 'devCommand'?
    """
    try:
        template = msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8), type=Template)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if is_nested(_object(data)):
            raise InvalidRequest(f"{TEMPLATE_FILE}: {_NESTED}") from None
        plain = explained(error, Template, "json")
        message = plain.message.replace("the request is not valid", "the file is not valid")
        raise InvalidRequest(f"{TEMPLATE_FILE}: {message}", **plain.details) from None
    try:
        refuse_bad_declarations(template.variables)
    except InvalidRequest as error:
        raise InvalidRequest(f"{TEMPLATE_FILE}: {error.message}", **error.details) from None
    if TEMPLATE_FILE in template.substitute:
        message = f"{TEMPLATE_FILE}: substitute lists {TEMPLATE_FILE} itself, which is read as it is"
        raise InvalidRequest(message, field="substitute")
    kinds = probe_kinds(template.readiness)
    if len(kinds) > 1:
        raise InvalidRequest(
            f"{TEMPLATE_FILE}: readiness takes one kind, not {' and '.join(kinds)}", field="readiness"
        )
    return template


NESTED_KEYS = ("metadata", "build", "development", "dependencies")
_NESTED = "this is the older, nested form; rewrite it by `workspace template migrate DIR --write`"


def is_nested(said: Mapping[str, Any]) -> bool:
    """Whether a template.json has the form of before: fields in groups.

    >>> is_nested({"metadata": {"name": "Shop"}}), is_nested({"name": "Shop", "files": {"required": []}})
    (True, False)
    """
    return any(isinstance(said.get(key), Mapping) for key in NESTED_KEYS)


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        return package_object(data)
    except ValueError:
        return {}


def package_object(data: bytes) -> dict[str, Any]:
    """What a package.json says, on both sides of the wall; ValueError with the reason when it is no object.

    A mark before it, as editors on Windows leave one, is no part of it: package managers read such files too.

    >>> package_object(codecs.BOM_UTF8 + b'{"name": "shop"}')
    {'name': 'shop'}
    """
    try:
        found = msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


@dataclass(frozen=True)
class StaticSite:
    """No command: the tool server's own static server, with live reload."""


def dev_command(package: Mapping[str, Any] | None, names: Collection[str]) -> str | StaticSite | None:
    """How a directory's dev server is started when nobody says; None when it has none.

    ``{host}`` and ``{port}`` are filled in later. Vite is told not to take another port in silence. Raises
    InvalidRequest for a package manager that is none.

    >>> dev_command({"scripts": {"dev": "vite"}}, ["package.json", "package-lock.json"])
    'npm run dev -- --host {host} --port {port} --strictPort'
    >>> dev_command(None, ["index.html"])
    StaticSite()
    """
    static = StaticSite() if INDEX_FILE in names else None
    if package is None:
        return static
    scripts = package.get("scripts")
    scripts = scripts if isinstance(scripts, dict) else {}
    script = next((name for name in ("dev", "start") if name in scripts), None)
    if script is None:
        return static
    manager = package_manager(package, names)
    separator = " --" if manager == "npm" else ""
    options = dev_options(str(scripts[script]))
    return f"{manager} run {script}{separator} {options}" if options else f"{manager} run {script}"


def dev_options(script: str) -> str:
    """The options that make the known dev servers take our host and port; the rest read HOST and PORT.

    >>> dev_options("astro dev"), dev_options("node server.js")
    ('--host {host} --port {port}', '')
    """
    words = _words(script)
    if "vite" in words:
        return "--host {host} --port {port} --strictPort"
    if "astro" in words or "nuxt" in words or "nuxi" in words:
        return "--host {host} --port {port}"
    if "next" in words:
        return "--hostname {host} --port {port}"
    return ""


def _words(script: str) -> list[str]:
    try:
        return shlex.split(script)
    except ValueError:
        return script.split()


def filled(command: str, host: str, port: int) -> str:
    """``command`` with its placeholders filled in; other braces are left as they are.

    >>> filled("serve {host}:{port} ${x}", "127.0.0.1", 4321)
    'serve 127.0.0.1:4321 ${x}'
    """
    return command.replace("{host}", host).replace("{port}", str(port))
