"""The seven packages: built in a clean Debian 12 by the Dockerfile's own steps, looked at, and built again."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest
import trees
from dockerfile import Stage
from trees import ROOT, Tree

# Where Debian trees have to be made first, on a busy machine.
pytestmark = pytest.mark.timeout(3600)

ARCHITECTURE = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
LIBRARIES = f"usr/lib/{subprocess.run(['uname', '-m'], capture_output=True, text=True).stdout.strip()}-linux-gnu"
VERSION = re.match(r"\S+ \(([^)]+)\)", (ROOT / "debian" / "changelog").read_text())[1]  # type: ignore[index]
HEADERS = ("packetpath", "rtp", "rtp_quality", "srtp", "srtp_common", "xt_MEDIAPROXY")
DOCUMENTS = {"README.html", "README.md.gz", "changelog.gz", "copyright"}


def control(package: Path) -> dict[str, str]:
    text = subprocess.check_output(["dpkg-deb", "-f", package], text=True)
    fields = re.split(r"\n(?! )", text.strip())
    return {name: " ".join(value.split()) for name, value in (line.split(":", 1) for line in fields)}


def files(package: Path) -> set[str]:
    unpacked = subprocess.check_output(["dpkg-deb", "--fsys-tarfile", package])
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        return {member.name.removeprefix("./") for member in archive if not member.isdir()}


def test_seven_packages_with_the_names_of_the_seed_document(packages: dict[str, Path]) -> None:
    of_all = {f"ngcp-rtpengine{name}" for name in ("", "-dev", "-kernel-dkms", "-kernel-source")}
    of_one = {f"ngcp-rtpengine-{name}" for name in ("daemon", "dbg", "iptables")}
    expected = {f"{name}_{VERSION}_all.deb" for name in of_all} | {f"{n}_{VERSION}_{ARCHITECTURE}.deb" for n in of_one}
    assert {path.name for path in packages.values()} == expected


@pytest.mark.parametrize(
    ("package", "contents"),
    [
        ("", {"usr/share/lintian/overrides/ngcp-rtpengine"}),
        (
            "-daemon",
            {
                *("usr/sbin/rtpengine", "usr/lib/rtpengine/service", "usr/lib/rtpengine/rtpengine/_packetpath.abi3.so"),
                *("usr/lib/rtpengine/bencodepy/__init__.py", "usr/lib/rtpengine/bencodepy/LICENSE"),
                *(
                    "etc/default/ngcp-rtpengine-daemon",
                    "etc/rtpengine/rtpengine.conf",
                    "etc/init.d/ngcp-rtpengine-daemon",
                ),
                *(f"lib/systemd/system/ngcp-rtpengine-{name}.service" for name in ("daemon", "daemon@", "forwarding@")),
                *("usr/share/man/man8/rtpengine.8.gz", "usr/share/man/man5/rtpengine.conf.5.gz"),
                "usr/share/bash-completion/completions/rtpengine",
                "usr/share/bash-completion/completions/rtpengine-ctl",
            },
        ),
        ("-dev", {f"usr/include/rtpengine/{name}.h" for name in HEADERS}),
        ("-iptables", {f"{LIBRARIES}/xtables/libxt_MEDIAPROXY.so", "usr/share/man/man8/libxt_MEDIAPROXY.8.gz"}),
        (
            "-kernel-dkms",
            {
                f"usr/src/ngcp-rtpengine-{VERSION}/{name}"
                for name in ("dkms.conf", "Kbuild", "Makefile", "main.c", "table.c", "proc.c", "srtp.c")
            },
        ),
        (
            "-kernel-source",
            {"usr/src/ngcp-rtpengine.tar.bz2", "usr/share/modass/overrides/ngcp-rtpengine-kernel-source"},
        ),
    ],
)
def test_contents(packages: dict[str, Path], package: str, contents: set[str]) -> None:
    name = f"ngcp-rtpengine{package}"
    found = files(packages[name])
    assert contents <= found, contents - found
    assert {f"usr/share/doc/{name}/{document}" for document in DOCUMENTS} <= found
    if package in ("", "-iptables", "-kernel-source", "-dev"):
        assert len(found) == len(contents) + len(DOCUMENTS)


def test_each_header_needs_no_other_that_is_not_there(packages: dict[str, Path], tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", packages["ngcp-rtpengine-dev"], tmp_path], check=True)
    for name in HEADERS:
        command = ["gcc", "-std=gnu11", "-Werror", f"-I{tmp_path}/usr/include", "-fsyntax-only", "-xc", "-"]
        done = subprocess.run(command, input=f"#include <rtpengine/{name}.h>\n", text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_symbols_are_those_of_both_compiled_files(packages: dict[str, Path], tmp_path: Path) -> None:
    for name in ("daemon", "iptables"):
        subprocess.run(["dpkg-deb", "-x", packages[f"ngcp-rtpengine-{name}"], tmp_path], check=True)
    objects = [*tmp_path.rglob("*.so")]
    notes = [subprocess.check_output(["readelf", "-n", path], text=True) for path in objects]
    ids = [re.search(r"Build ID: (\w+)", note)[1] for note in notes]  # type: ignore[index]
    assert len(ids) == 2
    assert {f"usr/lib/debug/.build-id/{i[:2]}/{i[2:]}.debug" for i in ids} <= files(packages["ngcp-rtpengine-dbg"])


@pytest.mark.parametrize(
    ("package", "depends"),
    [
        (
            "",
            f"ngcp-rtpengine-daemon (>= {VERSION}), ngcp-rtpengine-iptables (>= {VERSION}), ngcp-rtpengine-kernel-dkms",
        ),
        ("-daemon", "python3-openssl"),
        ("-dbg", f"ngcp-rtpengine-daemon (= {VERSION}), ngcp-rtpengine-iptables (= {VERSION})"),
        ("-iptables", "libxtables12"),
        ("-kernel-dkms", "dkms"),
        ("-kernel-source", "module-assistant"),
    ],
)
def test_dependencies(packages: dict[str, Path], package: str, depends: str) -> None:
    fields = control(packages[f"ngcp-rtpengine{package}"])
    assert depends in fields["Depends"]
    old_name = f"ngcp-mediaproxy-ng{package}"
    assert old_name in fields["Conflicts"].split(", ") and old_name in fields["Replaces"].split(", ")


def test_the_daemon_fits_any_python_that_is_new_enough(packages: dict[str, Path]) -> None:
    depends = control(packages["ngcp-rtpengine-daemon"])["Depends"]
    assert "python3 (>= 3.11)" in depends and "<<" not in depends and "python3.11" not in depends


def test_lintian_finds_no_error(packages: dict[str, Path]) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", *packages.values()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_second_build_elsewhere_and_offline_makes_the_same_files(build_tree: Tree, packages: dict[str, Path]) -> None:
    build_tree.shell("""
        umask 077
        cp -r /src /another
        cd /another
        LANG=C TZ=Asia/Tokyo DEB_BUILD_OPTIONS=parallel=1 unshare --net make deb
    """)
    for path in packages.values():
        again = build_tree.above(f"/another/dist/{path.name}")
        assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest(), path.name


def test_without_the_library_and_without_network_there_is_one_line(build_tree: Tree) -> None:
    script = "cp -r /src /bare; cd /bare; rm -rf debian/vendor; unshare --net dpkg-buildpackage -us -uc -b"
    done = build_tree.run("bash", "-c", script, check=False)
    assert done.returncode != 0
    told = [line for line in (done.stdout + done.stderr).splitlines() if "bencode.py" in line]
    assert len(told) == 1 and "run tools/fetch-bencode with access to PyPI" in told[0], done.stderr


def test_the_parts_are_made_by_hand_as_the_document_says(build_tree: Tree) -> None:
    """The kernel module is for test_machine.py, where headers are."""
    build_tree.shell("cp -r /src /by-hand; make -C /by-hand/iptables-extension; make -C /by-hand/daemon")
    assert build_tree.above("/by-hand/iptables-extension/libxt_MEDIAPROXY.so").exists()
    assert build_tree.run("/by-hand/.venv/bin/rtpengine", "--version").stdout.startswith("rtpengine ")


@pytest.fixture(scope="module")
def container(work: Path, stages: dict[str, Stage], build_tree: Tree, packages: dict[str, Path]) -> Tree:
    """What the Dockerfile makes to run in."""
    tree = Tree.on(trees.base(trees.SLIM), work / "container")
    stages["userspace"].perform(tree, {"context": ROOT, "build": build_tree.layer / "up"})
    return tree


def test_the_container_serves(container: Tree, stages: dict[str, Stage]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = f"""
        {" ".join(stages["userspace"].entrypoint)} --table=-1 --ip=127.0.0.1 --listen-ng=127.0.0.1:{port} &
        trap 'kill %1; wait' EXIT
        for _ in $(seq 600); do
            python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.connect(("127.0.0.1", {port}))
s.send(b"1 d7:command4:pinge")
print(s.recv(100).decode())' 2>/dev/null && exit
            sleep 0.1
        done
    """
    done = container.run("bash", "-c", script, check=False)
    assert "1 d6:result4:ponge" in done.stdout, done.stderr


def test_the_container_has_a_service_without_systemd_and_capabilities(container: Tree) -> None:
    """By the init script; where Docker starts a container it has neither of the two that the service has elsewhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = container.shell(f"""
        service=/etc/init.d/ngcp-rtpengine-daemon
        cat >/etc/default/ngcp-rtpengine-daemon <<END
RUN_MEDIAPROXY=yes
ADDRESS=127.0.0.1
LISTEN_NG=127.0.0.1:{port}
TABLE=-1
END
        for dropped in -net_admin,-sys_nice -checkpoint_restore; do
            setpriv --bounding-set=$dropped --inh-caps=$dropped $service start
            cat /proc/$(cat /run/rtpengine/ngcp-rtpengine-daemon.pid)/status
            $service stop
        done
    """)
    states = [dict(re.findall(r"^(Uid|CapEff|CapBnd):\s+(\S+)", part, re.M)) for part in said.split("Name:\t")[1:]]
    for name in ("CapEff", "CapBnd"):
        assert [state[name] for state in states] == [f"{0:016x}", f"{1 << 12 | 1 << 23:016x}"]
    assert all(state["Uid"] != "0" for state in states)


def test_the_container_for_a_host_with_the_module_makes_rules(container: Tree, stages: dict[str, Stage]) -> None:
    assert stages["host-module"].parent == "userspace"
    stages["host-module"].perform(container, {"context": ROOT})
    said = container.run("iptables", "-j", "MEDIAPROXY", "--help").stdout
    assert "MEDIAPROXY target options" in said


def test_the_context_leaves_out_what_is_built() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", "dist"} <= set(ignored)
