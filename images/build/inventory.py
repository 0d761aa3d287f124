"""What is in the image: a CycloneDX bill of materials and a list of licences, from what is installed.

    python3 inventory.py VERSION_FILE LICENSE OUTPUT_DIRECTORY

Reads Debian's package database, the daemon's environment and the packages beside Node, and asks nobody. The
same image gives the same files, byte by byte: no time, no random number.
"""

from __future__ import annotations

import email.parser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

VENV = Path("/tools/venv")
NODE_MODULES = Path("/usr/local/lib/node_modules")
WHEELS = Path("/usr/local/share/doc")
"""Where the build left the metadata of wheels whose programs went to /usr/local/bin."""


class Component(NamedTuple):
    """One package: its kind as purl says it, and its licences as its own metadata names them."""

    kind: str
    name: str
    version: str
    licences: tuple[str, ...]
    purl: str


def main() -> None:
    """Write sbom.cdx.json, licences.txt and LICENSE."""
    version_file, licence, output = map(Path, sys.argv[1:])
    version = re.findall(r'__version__ = "(.+)"', version_file.read_text())[0]
    components = sorted({*debian(), *python(VENV.glob("lib/python3*/site-packages/*.dist-info/METADATA"))})
    components += sorted({*python(WHEELS.glob("*/METADATA")), *node()})
    output.mkdir(parents=True, exist_ok=True)
    (output / "sbom.cdx.json").write_text(json.dumps(bill(version, components), indent=1) + "\n")
    (output / "licences.txt").write_text(licence_list(version, components))
    shutil.copyfile(licence, output / "LICENSE")


def debian() -> Iterator[Component]:
    """Every installed Debian package."""
    form = "${binary:Package}\t${Version}\t${Architecture}\n"
    lines = subprocess.run(
        ["dpkg-query", "-W", "-f", form], check=True, capture_output=True, text=True
    ).stdout
    for line in lines.splitlines():
        name, version, architecture = line.split("\t")
        name = name.partition(":")[0]
        purl = f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}?arch={architecture}"
        yield Component("deb", name, version, debian_licences(name), purl)


def debian_licences(name: str) -> tuple[str, ...]:
    """The licence names of a package's copyright file, in the order in which it tells them."""
    path = Path("/usr/share/doc", name, "copyright")
    try:
        return licences_of_copyright(path.read_text(errors="replace")) or (f"see {path}",)
    except OSError:
        return ("not told",)


def licences_of_copyright(text: str) -> tuple[str, ...]:
    """
    >>> licences_of_copyright("Format: x\\nLicense: GPL-2+\\n text\\nLicense: Expat\\nLicense: GPL-2+\\n")
    ('GPL-2+', 'Expat')
    >>> licences_of_copyright("See /usr/share/common-licenses/GPL-3.")
    ('GPL-3',)
    """
    named = re.findall(r"^License: *(\S.*?) *$", text, re.MULTILINE)
    referred = re.findall(r"/usr/share/common-licenses/([A-Za-z]+(?:-[0-9.]*[0-9])?)", text)
    return tuple(dict.fromkeys(named or referred))


def python(metadata: Iterator[Path]) -> Iterator[Component]:
    """Every distribution whose metadata is there."""
    for path in metadata:
        fields = email.parser.Parser().parsestr(path.read_text(), headersonly=True)
        name, version = fields["Name"], fields["Version"]
        yield Component("pypi", name, version, python_licences(fields), f"pkg:pypi/{name.lower()}@{version}")


def python_licences(fields: Any) -> tuple[str, ...]:
    """What a distribution's metadata says, the newer field first.

    >>> python_licences({"License-Expression": None, "License": "MIT"})
    ('MIT',)
    """
    told = fields["License-Expression"] or (fields["License"] or "").strip().split("\n")[0]
    if told:
        return (told,)
    classifiers = fields.get_all("Classifier", [])
    return tuple(each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License")) or (
        "not told",
    )


def node() -> Iterator[Component]:
    """Every package below Node's modules, those inside npm and pnpm included."""
    for path in NODE_MODULES.rglob("package.json"):
        if path.parent.parent.name != "node_modules" and path.parent.parent.parent.name != "node_modules":
            continue
        package = json.loads(path.read_text())
        if "name" in package and "version" in package:
            name, version = package["name"], package["version"]
            purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
            yield Component("npm", name, version, npm_licences(package), purl)


def npm_licences(package: dict[str, Any]) -> tuple[str, ...]:
    """A package.json's licence in any of the forms that have been in use.

    >>> npm_licences({"license": "MIT"}), npm_licences({"licenses": [{"type": "Apache 2.0"}]})
    (('MIT',), ('Apache 2.0',))
    """
    told = package.get("license") or package.get("licenses") or "not told"
    several = told if isinstance(told, list) else [told]
    return tuple(each if isinstance(each, str) else each.get("type", "not told") for each in several)


def bill(version: str, components: list[Component]) -> dict[str, Any]:
    """The bill of materials as CycloneDX 1.5."""
    ours = Component("", "workspace-core", version, ("Apache-2.0",), f"pkg:generic/workspace-core@{version}")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": entry(ours) | {"type": "container"}},
        "components": [entry(component) for component in components],
    }


def entry(component: Component) -> dict[str, Any]:
    """One component of the bill."""
    return {
        "type": "library",
        "bom-ref": component.purl,
        "name": component.name,
        "version": component.version,
        "licenses": [{"license": {"name": name}} for name in component.licences],
        "purl": component.purl,
    }


def licence_list(version: str, components: list[Component]) -> str:
    """One line a package; the texts are where the first lines say."""
    lines = [
        f"workspace-core {version}: Apache-2.0 (/tools/share/LICENSE)",
        "Full texts: /usr/share/doc/PACKAGE/copyright, /usr/local/share/doc, and in each package itself.",
        "",
        *(f"{each.kind:5} {each.name} {each.version}: {', '.join(each.licences)}" for each in components),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
