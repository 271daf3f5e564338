"""Makes a checkout usable from its .venv: the source tree on the import path, and its commands.

Plain files instead of an editable install, so that it works offline and takes no time.
"""

import os
import sys
import sysconfig
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
COMMANDS = {
    "modelbox": "modelboxd.cli",
    "modelbox-tool": "modelboxd.tool.main",
    "modelbox-python-debug": "modelboxd.debug",
}


def first_lines() -> str:
    """What starts the interpreter: the kernel takes no blanks after #!, and not many letters."""
    if " " not in sys.executable and len(sys.executable) < 120:
        return f"#!{sys.executable}\n"
    # For the shell a command, for Python a string.
    return f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\n"


def main() -> None:
    site = Path(sysconfig.get_paths()["purelib"])
    (site / "modelbox-checkout.pth").write_text(f"{TOP}\n")
    for name, module in COMMANDS.items():
        path = Path(sys.executable).parent / name
        path.write_text(f"{first_lines()}import sys\nfrom {module} import main\nsys.exit(main())\n")
        os.chmod(path, 0o755)


if __name__ == "__main__":
    main()
