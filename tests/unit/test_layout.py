"""Imports go one way (docs/architecture.md); the top level is what it is said to be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# Rank of each part; a file may import parts of a lower rank, and its own.
RANKS = {
    "modelbox": 0,
    "modelboxd.systemd": 2,
    "modelboxd.background": 1,
    "modelboxd.paths": 1,
    "modelboxd.cpus": 1,
    "modelboxd.loop": 1,
    "modelboxd.graph": 1,
    "modelboxd.settings": 2,
    "modelboxd.drivers": 3,
    "modelboxd.workers": 3,
    "modelboxd.logs": 3,
    "modelboxd.engine": 4,
    "modelboxd.server": 5,
    "modelboxd.tool": 5,
    "modelboxd.daemon": 6,
    "modelboxd.cli": 7,
    "modelboxd.__main__": 8,
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
            if not own:
                continue  # the packages' __init__.py
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
    import re

    for page in re.findall(r"\]\((docs/[^)]+)\)", (TOP / "README.md").read_text()):
        assert (TOP / page).exists(), page
