"""Imports go one way (docs/architecture.md); the top level is what it is said to be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# Rank of each part; a file may import parts of a lower rank, and its own.
RANKS = {
    "modelbox": 0,
    "modelboxd.systemd": 2,
    "modelboxd.background": 1,
    "modelboxd.compiled": 0,
    "modelboxd.paths": 1,
    "modelboxd.cpus": 1,
    "modelboxd.loop": 1,
    "modelboxd.graph": 1,
    "modelboxd.settings": 2,
    "modelboxd.settings_file": 3,
    "modelboxd.drivers": 3,
    "modelboxd.workers": 3,
    "modelboxd.logs": 3,
    "modelboxd.prints": 4,
    "modelboxd.engine": 4,
    "modelboxd.server": 5,
    "modelboxd.dump": 5,
    "modelboxd.watchdog": 5,
    "modelboxd.jobs": 6,
    "modelboxd.tasks": 7,
    "modelboxd.stats": 8,
    "modelboxd.inference": 8,
    "modelboxd.api": 9,
    "modelboxd.control": 10,
    "modelboxd.plugins": 10,
    "modelboxd.check": 10,
    "modelboxd.tool": 11,
    "modelboxd.daemon": 11,
    "modelboxd.cli": 12,
    "modelboxd.debug": 12,
    "modelboxd.__main__": 13,
}


def part(module: str) -> str:
    return max((name for name in RANKS if module == name or module.startswith(name + ".")), key=len, default="")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_imports_go_one_way() -> None:
    wrong = []
    for package in ("modelbox", "modelboxd"):
        for path in (TOP / package).rglob("*.py"):
            own = part(".".join(path.relative_to(TOP).with_suffix("").parts))
            if path == TOP / "modelboxd/__init__.py":
                continue
            assert own, f"{path.relative_to(TOP)}: give its part a rank in this test"
            for line, module in imports(path):
                other = part(module)
                if other and other != own and RANKS[other] >= RANKS[own]:
                    wrong.append(f"{path.relative_to(TOP)}:{line}: {own} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_core_binding_knows_only_errors_and_status() -> None:
    for path in (TOP / "modelbox/_core").glob("*.py"):
        for _, module in imports(path):
            if module.startswith("modelbox."):
                assert module.startswith(("modelbox._core", "modelbox.errors", "modelbox.status")), path


def test_built_in_units_see_the_engine_facade_and_the_server_only() -> None:
    seen = {"modelboxd.engine.unit", "modelboxd.engine.feed", "modelboxd.graph.model", "modelboxd.server"}
    for path in (TOP / "flowunits").rglob("*.py"):
        for line, module in imports(path):
            if module.startswith("modelboxd"):
                allowed = any(module == name or module.startswith(name + ".") for name in seen)
                assert allowed, f"{path.relative_to(TOP)}:{line}: {module}"


def test_example_units_are_written_as_users_write_them() -> None:
    units = list((TOP / "examples").glob("*/flowunit/*/*.py"))
    assert len(units) >= 2
    for path in units:
        for line, module in imports(path):
            assert module.split(".")[0] not in ("modelbox", "modelboxd"), f"{path}:{line}: import _flowunit"


def test_a_unit_lies_in_a_folder_of_its_name() -> None:
    for folder in (TOP / "flowunits").iterdir():
        if folder.is_dir() and folder.name not in ("common", "__pycache__"):
            parts = {path.suffix for path in folder.glob(f"{folder.name}.*")}
            assert ".cc" in parts or {".toml", ".py"} <= parts, folder


def test_names_of_files() -> None:
    for top in ("modelbox", "modelboxd", "flowunits", "examples", "benchmarks", "tests"):
        for path in (TOP / top).rglob("*.py"):
            assert re.fullmatch(r"[a-z_][a-z0-9_]*", path.stem), path
            assert path.stem not in ("utils", "util", "helpers", "misc"), f"{path}: name the idea"
    for path in (TOP / "csrc").glob("*/**/*.[ch]"):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", path.stem), path


def test_the_public_header_stands_alone() -> None:
    for path in (TOP / "csrc/include/modelbox").glob("*.h"):
        included = re.findall(r"#include\s+[<\"]([^>\"]+)", path.read_text())
        assert set(included) <= {"stddef.h", "stdint.h", "stdbool.h"}, path


def test_top_level() -> None:
    for name in [
        "setup.py",
        "modelboxd",
        "csrc",
        "flowunits",
        "etc",
        "packaging",
        "systemd",
        "tests",
        "README.md",
        "modelbox",
        "pyproject.toml",
        "Makefile",
        "docs",
        "examples",
        "benchmarks",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        ".gitignore",
        ".ci/run",
    ]:
        assert (TOP / name).exists(), name


def test_readme_names_pages_that_exist() -> None:
    for page in re.findall(r"\]\((docs/[^)]+)\)", (TOP / "README.md").read_text()):
        assert (TOP / page).exists(), page
