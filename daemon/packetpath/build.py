"""Builder of ``rtpengine._packetpath`` (cffi API mode); setup.py names ``ffibuilder``.

The headers are the one definition: reduced, they are what cffi parses; whole, the C compiler checks
that cffi has assumed every size and offset right.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
PACKETPATH = ROOT / "daemon" / "packetpath"
SHARED = ROOT / "kernel-module"

HEADERS = [
    *(SHARED / name for name in ("rtp.h", "srtp_common.h", "rtp_quality.h", "xt_MEDIAPROXY.h")),
    *(PACKETPATH / name for name in ("srtp.h", "packetpath.h", "learn.h", "rtcp.h", "reports.h", "bucket.h")),
]
PRIVATE_HEADERS = [PACKETPATH / name for name in ("internal.h", "address.h", "secure.h", "srtp_crypto.h")]
SOURCES = [
    *(PACKETPATH / name for name in ("worker.c", "stream.c", "relay.c", "demux.c", "secure.c", "learn.c")),
    *(PACKETPATH / name for name in ("early.c", "handover.c", "resume.c", "rtcp.c", "reports.c")),
    *(PACKETPATH / name for name in ("srtp.c", "srtp_crypto.c")),
]

KERNEL_TYPES = "typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;\n"
INLINE_BODY = re.compile(r"static inline ([^{;]*?\))\n\{.*?\n\}", re.DOTALL)
INTEGER_DEFINE = re.compile(r"#define [A-Z0-9_]+ -?(0x[0-9a-fA-F]+|\d+)\b")


def declarations(header: Path) -> str:
    """Reduce a header in the shared subset to what cffi's cdef accepts."""
    text = INLINE_BODY.sub(r"\1;", header.read_text())
    return "\n".join(line for line in text.splitlines() if not line.startswith("#") or INTEGER_DEFINE.match(line))


def relative(path: Path) -> str:
    """Setuptools wants paths relative to setup.py."""
    return str(path.relative_to(ROOT))


ffibuilder = FFI()
ffibuilder.cdef(KERNEL_TYPES + "\n".join(map(declarations, HEADERS)))
ffibuilder.set_source(
    "rtpengine._packetpath",
    "\n".join(f'#include "{header.name}"' for header in HEADERS),
    sources=[relative(source) for source in SOURCES],
    depends=[relative(header) for header in [*HEADERS, *PRIVATE_HEADERS]],
    include_dirs=[relative(PACKETPATH), relative(SHARED)],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
    libraries=["pthread", "crypto"],
)
