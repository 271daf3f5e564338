"""Wheels that the packages are made with, fetched once into build/wheels/ and checked against hashes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
FOLDER = TOP / "build/wheels"


def fetch(requirements: Path) -> list[Path]:
    """The wheels that a list of `name==version --hash=sha256:...` names, for CPython 3.11 on this machine."""
    wanted = [line.split() for line in requirements.read_text().splitlines() if "==" in line]
    if not all(_found(words) for words in wanted):
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [str(TOP / ".venv/bin/pip"), "--disable-pip-version-check", "-q", "download", "--no-deps"]
        command += ["--only-binary", ":all:", "--python-version", "3.11", "--require-hashes"]
        done = subprocess.run([*command, "-d", str(FOLDER), "-r", str(requirements)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stderr}\npackaging/wheels.py: what {requirements.name} lists could not be fetched")
    return [path for words in wanted for path in _found(words)]


def _found(words: list[str]) -> list[Path]:
    """The file for one line of the list, when it is there and is what the list says."""
    name, version = words[0].split("==")
    hashes = {word.removeprefix("--hash=sha256:") for word in words[1:]}
    found = FOLDER.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    return [path for path in found if hashlib.sha256(path.read_bytes()).hexdigest() in hashes][:1]


def unpack(wheels: list[Path], folder: Path) -> Path:
    """What they hold, in a folder for PYTHONPATH."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder
