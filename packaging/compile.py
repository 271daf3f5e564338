"""Compiles the daemon's hot modules with mypyc, for modelboxd/compiled.py to find. Takes about a minute.

A module that cannot be compiled is no reason not to run: without this step the daemon takes the .py files.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))
os.environ["MODELBOX_COMPILED"] = "0"

from modelboxd import compiled  # noqa: E402


def main() -> None:
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    os.chdir(TOP)
    there = compiled.folder()
    wanted = compiled.digests()
    there.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=there.parent) as scratch:
        sources = [str(compiled.source_of(module).relative_to(TOP)) for module in compiled.MODULES]
        extensions = mypycify(
            sources, opt_level="2", debug_level="0", group_name="modelboxd", target_dir=f"{scratch}/c"
        )
        command = build_ext(Distribution({"name": "modelboxd", "ext_modules": extensions}))
        command.build_lib, command.build_temp = f"{scratch}/lib", f"{scratch}/temp"
        command.ensure_finalized()
        command.run()
        made = Path(scratch) / "lib"
        (made / "sources.json").write_text(json.dumps(wanted))
        shutil.rmtree(there, ignore_errors=True)
        made.rename(there)


if __name__ == "__main__":
    main()
