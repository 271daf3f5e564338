"""Builds the C core as a cffi extension (API mode). The declarations come from the headers themselves.

`python modelbox/_core/build.py` builds in place (by path, since the package cannot be imported before); setup.py
uses `ffibuilder`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
MODULE = "modelbox._core._native"
FOR_ALL = "_objects.abi3.so"
CFLAGS = ["-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-Wall", "-Wextra"]
# The library for all interpreters: its functions are called by ctypes, too.
CFLAGS_FOR_ALL = [*CFLAGS, "-fvisibility=default", "-DPy_LIMITED_API=0x030B0000"]
LINK_FOR_ALL = ["-pthread", "-Wl,-Bsymbolic"]


def sources() -> list[Path]:
    """The core, and what Python sees of it beside cffi."""
    return sorted([*(CSRC / "src").glob("*.c"), *HERE.glob("*.c")])


def declarations() -> str:
    """The headers after the preprocessor, without what only a compiler needs."""
    text = ""
    for header in ("include/modelbox/plugin.h", "src/core.h"):
        command = [os.environ.get("CC", "cc"), "-E", "-P", "-DMB_CFFI", "-DMB_EXPORT=", "-x", "c", str(CSRC / header)]
        text += subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # The entry is what plugins export; the core does not.
    return "\n".join(line for line in text.splitlines() if "mb_plugin_entry_v1" not in line)


def make_ffi(base: Path | None = None) -> FFI:
    """The builder; files are named relative to `base`, as setuptools wants it, or absolutely without one."""

    def name(path: Path) -> str:
        return os.path.relpath(path, base) if base else str(path)

    ffi = FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        MODULE,
        '#include "core.h"\n',
        sources=[name(path) for path in sources()],
        include_dirs=[name(CSRC / "include"), name(CSRC / "src")],
        extra_compile_args=CFLAGS,
        extra_link_args=["-pthread"],
        py_limited_api=False,  # cores.c uses more of it
        depends=sorted(name(path) for path in (*CSRC.glob("*/**/*.h"), *HERE.glob("*.h"))),
    )
    return ffi


def build_for_all(target: Path) -> None:
    """Compiles the library for units with an interpreter of their own: no cffi, any CPython from 3.9 on."""
    headers = [f"-I{path}" for path in (sysconfig.get_path("include"), CSRC / "include", CSRC / "src")]
    flags = [*CFLAGS_FOR_ALL, "-fPIC", "-shared", *LINK_FOR_ALL, *shlex.split(os.environ.get("CFLAGS", ""))]
    new = target.with_name(target.name + ".new")
    command = [os.environ.get("CC", "cc"), *flags, *headers, *map(str, sources()), "-ldl", "-o", str(new)]
    subprocess.run(command, check=True)
    os.replace(new, target)


def build_in_place() -> None:
    """Compiles beside the sources, for checkouts and editable installs."""
    build_for_all(HERE / FOR_ALL)
    ffi = make_ffi()
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(ffi.compile(tmpdir=scratch))
        shutil.move(built, HERE / (built.name + ".new"))
        os.replace(HERE / (built.name + ".new"), HERE / built.name)


ffibuilder = make_ffi(ROOT) if __name__ != "__main__" else None

if __name__ == "__main__":
    build_in_place()
