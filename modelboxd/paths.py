"""Where things lie: a checkout, an installation, or an installation below a prefix (MODELBOX_ROOT)."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """The prefix of all standard paths; MODELBOX_ROOT, "/" when unset."""
    return Path(os.environ.get("MODELBOX_ROOT") or "/")


def standard(name: str) -> str:
    """A standard path such as "var/log/modelbox" below the prefix."""
    return str(root() / name)


def checkout() -> Path | None:
    """The source tree when modelbox runs from one."""
    top = PACKAGE.parent
    return top if (top / "flowunits").is_dir() and (top / "csrc").is_dir() else None


def unit_dir() -> Path:
    """The default directory of flow units, and the only place of built-in ones."""
    top = checkout()
    if not os.environ.get("MODELBOX_ROOT"):
        if top is not None:
            return top / "flowunits"
        if (PACKAGE / "flowunits").is_dir():  # an installed wheel
            return PACKAGE / "flowunits"
    return root() / "usr/lib/modelbox"


def logs_dir() -> str:
    """The folder of the log: the one that a service manager made, else /var/log/modelbox, or for an ordinary user a
    directory of their own."""
    given = _given("LOGS_DIRECTORY")
    if given:
        return given
    system = standard("var/log/modelbox")
    if os.environ.get("MODELBOX_ROOT") or os.geteuid() == 0 or os.access(system, os.W_OK):
        return system
    return str(_own("XDG_STATE_HOME", ".local/state") or system)


def runtime_dir() -> str:
    """The folder of the control socket: the one that a service manager made, else the standard one, or for an ordinary
    user one of their own where the system has such."""
    given = _given("RUNTIME_DIRECTORY")
    own = os.environ.get("XDG_RUNTIME_DIR")
    common = standard("run/modelbox")
    if given or not own or os.environ.get("MODELBOX_ROOT") or os.geteuid() == 0 or os.access(common, os.W_OK):
        return given or common
    return f"{own}/modelbox"


def _given(name: str) -> str:
    return os.environ.get(name, "").split(":")[0]  # systemd: several are joined by colons


def use_private_packages() -> None:
    """Python packages that came with modelbox and that the system lacks (onnxruntime) can be imported from now on; the
    system's own come first."""
    folder = standard("usr/lib/modelbox/python")
    if folder not in sys.path and os.path.isdir(folder):
        sys.path.append(folder)


def config_file() -> Path:
    """The default modelbox.conf."""
    return root() / "etc/modelbox/modelbox.conf"


def state_dir() -> Path:
    """Where jobs made over the API are kept: the directory that a service manager made, else /var/lib/modelbox, or for
    an ordinary user a directory of their own."""
    given = os.environ.get("MODELBOX_STATE_DIR") or _given("STATE_DIRECTORY")
    if given:
        return Path(given)
    system = root() / "var/lib/modelbox"
    if os.environ.get("MODELBOX_ROOT") or os.geteuid() == 0 or os.access(system, os.W_OK):
        return system
    return _own("XDG_STATE_HOME", ".local/state") or system


def cache_dir() -> Path:
    """Where the driver scan is remembered: private to this user."""
    given = os.environ.get("MODELBOX_CACHE_DIR")
    if given:
        return Path(given)
    common = root() / "var/cache/modelbox"
    if common.is_dir() and common.stat().st_uid == os.geteuid():
        return common
    return _own("XDG_CACHE_HOME", ".cache") or common


def _own(variable: str, below_home: str) -> Path | None:
    """A directory of this user; None for a container's user without a home."""
    base = os.environ.get(variable)
    if base:
        return Path(base) / "modelbox"
    home = os.environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            return None
    return Path(home) / below_home / "modelbox"
