"""The Dockerfile without Docker: its commands, run in a Debian tree."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trees import Tree

BASE = "debian:bookworm-slim"


@dataclass
class Stage:
    """What stands between two FROM; ``parent`` is a stage or the image that all begin with."""

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def perform(self, tree: Tree, folders: Mapping[str, Path]) -> None:
        """Do what the stage says; ``folders`` has "context", and the root of each stage that is copied from."""
        directory = "/"
        for instruction, arguments in self.steps:
            if instruction == "RUN":
                tree.shell(f"cd {directory}\n{arguments}")
            elif instruction == "WORKDIR":
                directory = arguments
            elif instruction == "COPY":
                _copy(shlex.split(arguments), tree, folders)
            else:
                assert instruction == "ENTRYPOINT", instruction

    @property
    def entrypoint(self) -> list[str]:
        return [word for instruction, words in self.steps if instruction == "ENTRYPOINT" for word in json.loads(words)]


def _copy(words: list[str], tree: Tree, folders: Mapping[str, Path]) -> None:
    origin = folders["context"]
    if words[0].startswith("--from="):
        origin = folders[words.pop(0).removeprefix("--from=")]
    source, target = words
    shutil.copytree(origin / source.lstrip("/"), tree.above(target), symlinks=True, dirs_exist_ok=True)


def parse(text: str) -> dict[str, Stage]:
    """The stages by name, in their order."""
    stages: dict[str, Stage] = {}
    for instruction, arguments in _instructions(text):
        if instruction == "FROM":
            parent, _, name = arguments.partition(" AS ")
            assert parent == BASE or parent in stages, parent
            stages[name] = Stage(name, parent)
        else:
            list(stages.values())[-1].steps.append((instruction, arguments))
    return stages


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for line in filter(None, lines.replace("\\\n", " ").splitlines()):
        instruction, _, arguments = line.partition(" ")
        yield instruction, arguments.strip()
