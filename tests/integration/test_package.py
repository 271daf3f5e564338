"""The wheel: what an installed modelbox needs is in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.server import LIMIT_S, TOP


@pytest.mark.timeout(300)
def test_a_wheel_finds_its_own_units(tmp_path: Path) -> None:
    code = f"""
import sys
from setuptools import build_meta
print(build_meta.build_wheel({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_copy(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    env = {**os.environ, "PYTHONPATH": str(site), "MODELBOX_CACHE_DIR": str(tmp_path)}
    env.pop("MODELBOX_ROOT", None)
    command = [sys.executable, "-m", "modelboxd.tool.main", "driver", "-info"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=env, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    found = {line.split()[1]: line.split()[4] for line in done.stdout.splitlines()[1:]}
    assert {"resize", "image_decoder", "mean", "httpserver_sync_receive", "inference_onnx"} <= found.keys()
    assert all(path.startswith(f"{site}/modelboxd/flowunits/") for path in found.values())


def _copy(folder: Path) -> Path:
    """What a wheel is built from, so that the build leaves nothing in the tree."""
    source = folder / "source"
    source.mkdir()
    for name in ("modelbox", "modelboxd", "flowunits", "csrc", "setup.py", "pyproject.toml", "README.md"):
        subprocess.run(["cp", "-r", str(TOP / name), str(source)], check=True)
    return source
