"""Compiles the daemon's hot modules with mypyc, for modelboxd/compiled.py to find: compile.py [FOLDER]. About a minute.

Without FOLDER into the checkout's build/; packages give the _compiled folder of what they install. The same sources and
the same mypyc give the same bytes, wherever they lie.
"""

import json
import os
import shutil
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))
os.environ["MODELBOX_COMPILED"] = "0"

from modelboxd import compiled  # noqa: E402

# Types are checked by `make lint`. These two depend on what the packages that are installed say of their types.
LENIENT = ("--no-warn-return-any", "--no-warn-unused-ignores")


def main() -> None:
    there = Path(sys.argv[1]).resolve() / compiled.folder().name if len(sys.argv) > 1 else compiled.folder()
    os.chdir(TOP)
    wanted = compiled.digests()
    scratch = Path("build/compiling")  # of one name and relative: the compiler writes it into what it makes
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        made = build(scratch)
        (made / "sources.json").write_text(json.dumps(wanted))
        shutil.rmtree(there, ignore_errors=True)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, there)
    finally:
        shutil.rmtree(scratch)


def build(scratch: Path) -> Path:
    """The folder of the modules, below `scratch`."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    sources = [str(compiled.source_of(module).relative_to(TOP)) for module in compiled.MODULES]
    extensions = mypycify(
        [*LENIENT, *sources], opt_level="2", debug_level="0", group_name="modelboxd", target_dir=f"{scratch}/c"
    )
    command = build_ext(Distribution({"name": "modelboxd", "ext_modules": extensions}))
    command.build_lib, command.build_temp = f"{scratch}/lib", f"{scratch}/temp"
    command.ensure_finalized()
    command.run()
    return Path(command.build_lib)


if __name__ == "__main__":
    main()
