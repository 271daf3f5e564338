"""Builds the C core: a cffi extension, and a library for other interpreters; the rest is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
build = runpy.run_path(str(ROOT / "modelbox/_core/build.py"), run_name="build")

for_all = Extension(
    "modelbox._core._objects",
    sources=[str(path.relative_to(ROOT)) for path in build["sources"]()],
    include_dirs=["csrc/include", "csrc/src"],
    extra_compile_args=build["CFLAGS_FOR_ALL"],
    extra_link_args=build["LINK_FOR_ALL"],
    py_limited_api=True,
)
setup(cffi_modules=["modelbox/_core/build.py:ffibuilder"], ext_modules=[for_all])
