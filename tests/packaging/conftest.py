"""The packages, built as the Dockerfile says in a Debian tree that has nothing else, and what they need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trees
from dockerfile import Stage, parse
from trees import NEXT, ROOT, Tree, sources

collect_ignore = ["guest"]


def needs_machine() -> None:
    """Skip where no Debian tree can be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make Debian trees")
    for tool in ("mmdebstrap", "unshare", "dpkg-deb"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the layers, which are too much to be kept."""
    needs_machine()
    folder = tmp_path_factory.mktemp("packaging")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stages() -> dict[str, Stage]:
    return parse((ROOT / "Dockerfile").read_text())


@pytest.fixture(scope="session")
def build_tree(work: Path, stages: dict[str, Stage]) -> Tree:
    """The tree in which the Dockerfile has built the packages, /src/dist."""
    tree = Tree.on(trees.base(trees.SLIM), work / "build")
    context = work / "context"
    sources(context)
    stages["build"].perform(tree, {"context": context})
    return tree


@pytest.fixture(scope="session")
def packages(build_tree: Tree) -> dict[str, Path]:
    """The seven files by the name of their package."""
    return {path.name.partition("_")[0]: path for path in sorted(build_tree.above("/src/dist").iterdir())}


@pytest.fixture(scope="session")
def next_packages(build_tree: Tree) -> dict[str, Path]:
    """The same with a higher version, built from another folder."""
    build_tree.shell(f"""
        umask 077
        cp -r /src /somewhere-else
        cd /somewhere-else
        sed -i '1s/(.*)/({NEXT})/' debian/changelog
        make deb
    """)
    return {path.name.partition("_")[0]: path for path in sorted(build_tree.above("/somewhere-else/dist").iterdir())}
