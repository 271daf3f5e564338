"""What goes into the packages is what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())


def test_every_package_is_named() -> None:
    """One that is not would be missing from debs, rpms and wheel, while all tests of a checkout pass."""
    there = {
        ".".join(path.relative_to(TOP).parts)
        for top in ("modelbox", "modelboxd")
        for path in [TOP / top, *(TOP / top).rglob("*")]
        if path.is_dir() and any(path.glob("*.py"))
    }
    named = set(PROJECT["tool"]["setuptools"]["packages"]) - {"modelboxd.flowunits"}
    assert named == there


def test_every_file_beside_the_code_is_named() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        folder = TOP / PROJECT["tool"]["setuptools"]["package-dir"].get(package, package.replace(".", "/"))
        named = {path for pattern in data.get(package, ()) for path in folder.glob(pattern)}
        others = {path for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".so", ".c", ".h")}
        if package != "modelboxd.flowunits":
            assert others <= named, package


def test_every_command_is_packed_and_has_a_page() -> None:
    commands = set(PROJECT["project"]["scripts"])
    assert {path.name for path in (TOP / "packaging/bin").iterdir()} == commands
    assert {path.stem for path in (TOP / "packaging/man").glob("*.[18]")} == commands
    spec = (TOP / "packaging/rpm/modelbox.spec").read_text().splitlines()
    assert {line.removeprefix("%{_bindir}/") for line in spec if line.startswith("%{_bindir}/modelbox")} == commands


def test_dependencies_agree() -> None:
    """Of pip, deb and rpm: the same packages, in the same versions at least."""

    def versions(text: str, pattern: str) -> dict[str, str]:
        return {
            name.removesuffix("-backend").removesuffix("-parser"): version
            for name, version in re.findall(pattern, text)
        }

    wanted = dict(item.split(">=") for item in PROJECT["project"]["dependencies"])
    control = (TOP / "packaging/debian/control").read_text()
    deb = versions(control, r"python3-([a-z-]+) \(>= (?:1:)?([0-9.]+)\)")
    rpm = versions(
        (TOP / "packaging/rpm/modelbox.spec").read_text(), r"(?:Requires|Suggests): +python3-([a-z-]+) >= ([0-9.]+)"
    )
    assert deb == rpm
    for name, least in wanted.items():
        assert tuple(map(int, deb[name].split("."))) >= tuple(map(int, least.split("."))), name
