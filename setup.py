"""The build of the C extension; everything else about the project is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["daemon/packetpath/build.py:ffibuilder"])
