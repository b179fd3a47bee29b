"""Debian 12 trees to install into: made once, kept in a cache, and never changed by what runs on top of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "tests" / "kernel" / "lab"
# The version that is upgraded to.
NEXT = "3.999.0"
CACHE = Path.home() / ".cache" / "rtpengine-packaging"
# Raised when trees are to be made anew although the lists of packages below stay the same.
EDITION = "1"

# What every Debian container begins with, and what every machine of a Debian operator has besides.
SLIM: tuple[str, ...] = ()
MACHINE = (
    *("systemd-sysv", "dbus", "kmod", "iproute2", "procps"),
    # to build the module: DKMS, the compiler of Debian's kernels, module-assistant
    *("dkms", "module-assistant", "gcc-12", "libc6-dev", "linux-libc-dev", "debhelper"),
    # to run the unit tests on Debian's own libraries
    *("python3", "python3-pytest", "python3-hypothesis", "python3-cffi"),
)

# How this machine reaches Debian's and Python's archives.
_TAKEN_OVER = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf"),
    *("/etc/apt/sources.list.d/debian.sources", "/usr/share/keyrings/debian-archive-keyring.gpg"),
)

# Whom this machine trusts; beside the file of a package that may be installed in the tree.
_TRUSTED, _CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt"), "/etc/ssl/machine.crt"

# A mount namespace of its own: whatever is mounted goes with it.
_ENTER = """
set -euo pipefail
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$LAYER/up,workdir=$LAYER/work" "$LAYER/root"
if [ -n "${CHROOT-}" ]; then
	mount -t proc proc "$LAYER/root/proc"
	mount -t sysfs sysfs "$LAYER/root/sys"
	mount --rbind /dev "$LAYER/root/dev"
	mount -t tmpfs tmpfs "$LAYER/root/run"
	mkdir -p "$LAYER/root/opt" "$LAYER/root/var/cache/apt/archives"
	mount --bind -o ro /opt "$LAYER/root/opt" # where an index of packages may be a directory
	mount --bind "$ARCHIVES" "$LAYER/root/var/cache/apt/archives"
	exec chroot "$LAYER/root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
		SSL_CERT_FILE="$CERTIFICATES" PIP_CERT="$CERTIFICATES" "$@"
fi
exec "$@"
"""


class Failed(AssertionError):
    """A command in a tree ended with another status than 0; the text has what it said."""


@dataclass(frozen=True)
class Tree:
    """A base with a layer on top that takes what is written."""

    base: Path
    layer: Path

    @classmethod
    def on(cls, base: Path, layer: Path) -> Tree:
        """An empty layer, with this machine's ways to the archives."""
        tree = cls(base, layer)
        for part in ("up", "work", "root"):
            (layer / part).mkdir(parents=True)
        for path in map(Path, _TAKEN_OVER):
            if path.exists():
                tree.put(path, str(path))
        tree.write(
            "/etc/apt/apt.conf.d/90test", 'Acquire::Check-Valid-Until "false";\nAPT::Keep-Downloaded-Packages "true";\n'
        )
        if (base / "etc/apt/sources.list").exists():
            tree.write("/etc/apt/sources.list", "")
        if _TRUSTED.exists():
            tree.put(_TRUSTED, _CERTIFICATES)
        pip = Path.home() / ".config" / "pip"
        if pip.is_dir():
            shutil.copytree(pip, tree.above("/root/.config/pip"))
        # A service that a package wants to start here would start on this machine.
        tree.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)
        return tree

    def above(self, path: str) -> Path:
        """Where a file of the tree is kept, or has to be put while nothing runs in the tree."""
        return self.layer / "up" / path.lstrip("/")

    def put(self, source: Path, path: str) -> None:
        """Copy a file of this machine into the tree."""
        self.above(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source.resolve(), self.above(path))

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Make a file in the tree."""
        self.above(path).parent.mkdir(parents=True, exist_ok=True)
        self.above(path).write_text(text)
        self.above(path).chmod(mode)

    def add_kernel(self, kernel: Path) -> str:
        """Put a kernel of the lab in, as if its packages were installed: modules and headers. Return its version."""
        version = os.listdir(kernel / "lib" / "modules")[0]
        for source, target in (("lib/modules", "usr/lib/modules"), ("usr/src", "usr/src"), ("usr/lib", "usr/lib")):
            self.above(target).mkdir(parents=True, exist_ok=True)
            # hard links: nobody changes these files in place
            subprocess.run(["cp", "-al", *(kernel / source).iterdir(), self.above(target)], check=True)
        build = self.above(f"usr/lib/modules/{version}/build")
        build.unlink()
        build.symlink_to(f"/usr/src/linux-headers-{version}")
        return version

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the tree, as root."""
        return self._enter({"CHROOT": "1"}, *command, check=check)

    def shell(self, script: str) -> str:
        """Run a script in the tree; return what it printed."""
        return self.run("bash", "-euo", "pipefail", "-c", script).stdout

    def boot(self, lab: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Boot the tree in the kernel lab: arguments for its script ``run``."""
        return self._enter({}, str(lab / "run"), "--root", str(self.layer / "root"), "--boot", *arguments, check=False)

    def _enter(self, more: dict[str, str], *command: str, check: bool) -> subprocess.CompletedProcess[str]:
        archives = CACHE / "archives"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "BASE": str(self.base), "LAYER": str(self.layer), "ARCHIVES": str(archives), **more}
        env["CERTIFICATES"] = _CERTIFICATES
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", _ENTER, "bash", *command],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if check and done.returncode:
            raise Failed(
                f"{' '.join(command)[:500]}: status {done.returncode}\n{done.stdout[-8000:]}{done.stderr[-8000:]}"
            )
        return done


def base(packages: tuple[str, ...]) -> Path:
    """The cached tree with these packages; made when it is not there yet."""
    key = hashlib.sha256(" ".join((EDITION, *packages)).encode()).hexdigest()[:12]
    tree = CACHE / f"tree-{key}"
    if not tree.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = CACHE / f"making-{key}-{os.getpid()}"
        command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
        command += [f"--include={','.join(packages)}"] if packages else []
        options = ['--aptopt=Acquire::Check-Valid-Until "false"', "bookworm", str(making)]
        done = subprocess.run([*command, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(making, ignore_errors=True)
            raise Failed(f"mmdebstrap: {done.stderr[-4000:]}")
        making.rename(tree)
    return tree


def sources(into: Path) -> None:
    """Copy what git has or would have."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name, follow_symlinks=False)
