"""Runs a fuzz target in Python under atheris: with_atheris.py DIRECTORY TARGET [OPTION OF LIBFUZZER ...]."""

from __future__ import annotations

import importlib
import sys

import atheris

_, directory, *arguments = sys.argv
sys.path.insert(0, directory)
with atheris.instrument_imports(include=["rtpengine", f"{arguments[0]}_target"]):
    target = importlib.import_module(f"{arguments[0]}_target")

atheris.Setup(arguments, target.one_input)
atheris.Fuzz()
