"""Builds the C core (a cffi extension) and the exporter extension; the rest is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    cffi_modules=["modelbox/_core/build.py:ffibuilder"],
    ext_modules=[Extension("modelbox._core._exporter", ["modelbox/_core/exporter.c"])],
)
