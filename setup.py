"""Builds the C core (a cffi extension); the rest is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["modelbox/_core/build.py:ffibuilder"])
