"""The compiled modules stand in for their sources only while they are the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelboxd import compiled

WHERE = "import modelboxd.engine.step as step; print(step.__file__.endswith('.so'))"


def loads_compiled(top: Path, **environment: str) -> bool:
    """Whether a new process with the tree at `top` takes the compiled modules."""
    done = subprocess.run(
        [sys.executable, "-c", WHERE],
        env={**os.environ, "PYTHONPATH": str(top), **environment},
        cwd=top,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() == "True"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the tree, with the compiled modules."""
    if not (compiled.folder() / "sources.json").exists():
        pytest.skip("nothing is compiled here")
    for name in ("modelbox", "modelboxd"):
        shutil.copytree(compiled.TOP / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    there = tmp_path / compiled.folder().relative_to(compiled.TOP)
    shutil.copytree(compiled.folder(), there)
    # As if they had just been made of these sources.
    (there / "sources.json").write_text(json.dumps(compiled.digests()))
    return tmp_path


def test_used_while_the_sources_are_the_same(tree: Path) -> None:
    assert loads_compiled(tree)
    assert not loads_compiled(tree, MODELBOX_COMPILED="0")


def test_a_changed_source_puts_all_sources_in_charge(tree: Path) -> None:
    source = tree / "modelboxd/engine/feed.py"
    source.write_text(source.read_text() + "\n# changed\n")
    assert not loads_compiled(tree)


def test_a_library_that_is_missing_does_too(tree: Path) -> None:
    next(tree.rglob("modelboxd/engine/feed.*.so")).unlink()
    assert not loads_compiled(tree)


def test_sources_exist() -> None:
    assert sorted(set(compiled.MODULES)) == list(compiled.MODULES)
    assert set(compiled.digests()) == set(compiled.MODULES)
