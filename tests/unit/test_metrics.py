"""What a scrape finds, read with the parser of prometheus_client."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import TOOLS, FakeTransport
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from test_counts import said

import rtpengine
from rtpengine import LoadLimit, config, metrics
from rtpengine.counts import CallCounts, RequestCounts
from rtpengine.daemon import Daemon
from rtpengine.media import Learning, Quality, Signalling
from rtpengine.metrics import METRICS, Metrics, Parts
from rtpengine.packetpath import PacketPathStats, Traffic
from rtpengine.packetpath_structs import DROP_REASONS
from rtpengine.ports import PortPool
from rtpengine.quality import Far, Sample, Totals
from rtpengine.table import CallTable, Limits

# As operations.md 4 names them: type and labels. What is not measured is not there.
EXPECTED: dict[str, tuple[str, set[str]]] = {
    "sessions": ("gauge", {"type"}),
    "mediastreams": ("gauge", {"type"}),
    "uptime_seconds": ("gauge", set()),
    "call_duration_avg": ("gauge", set()),
    "ports": ("gauge", {"name", "address"}),
    "ports_used": ("gauge", {"name", "address"}),
    "ports_free": ("gauge", {"name", "address"}),
    "sessions_total": ("counter", set()),
    "closed_sessions_total": ("counter", {"reason"}),
    **dict.fromkeys(
        ("interface_packets", "interface_bytes", "interface_errors"), ("gauge", {"name", "address", "direction"})
    ),
    "packets_total": ("counter", {"type"}),
    "bytes_total": ("counter", {"type"}),
    "packet_errors_total": ("counter", {"type"}),
    "zero_packet_streams_total": ("counter", set()),
    "one_way_sessions_total": ("counter", set()),
    "call_duration_total": ("counter", set()),
    "call_duration2_total": ("counter", set()),
    **dict.fromkeys(
        ("packets_lost", "rtp_duplicates", "rtp_reordered", "rtp_skips", "rtp_seq_resets"), ("counter", set())
    ),
    **{
        f"{name}{ending}": ("counter", set())
        for name in ("mos", "packetloss", "jitter_measured", "jitter", "rtt_e2e")
        for ending in ("_total", "2_total", "_samples_total")
    },
    "requests_total": ("counter", {"proxy", "request"}),
    "request_seconds_total": ("counter", {"proxy", "request"}),
    "errors_total": ("counter", {"proxy"}),
    "build_info": ("gauge", {"version", "python"}),
    "draining": ("gauge", set()),
    "forwarding_path": ("gauge", {"path"}),
    "dropped_packets_total": ("counter", {"reason"}),
    "lost_events_total": ("counter", set()),
}
UNITS = {
    *("always 1", "0 or 1", "seconds", "seconds squared", "calls", "streams", "sockets", "ports"),
    *("packets", "bytes", "requests", "gaps", "jumps", "samples"),
    *(f"{unit}{squared}" for unit in ("1 to 5", "percent", "ms") for squared in ("", " squared")),
}


class Scene:
    """Parts that say what a case wants, and what a scrape of them finds."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.calls = CallCounts()
        self.requests = RequestCounts()
        self.quality = Totals()
        self.table = CallTable(self.transport, Limits(), Learning.HEURISTIC, TOOLS, self.calls.ended)
        self.stats = PacketPathStats(100, 20_000, 3, {"source": 2}, 4, 0, 0)._replace(
            received={4: Traffic(80, 16_000, 1), 6: Traffic(20, 4_000, 0)},
            sent={4: Traffic(30, 6_000, 2), 6: Traffic(70, 14_000, 0)},
        )
        self.in_kernel: set[int] = set()
        self.offload: Any = None
        self.pools = {4: PortPool("127.0.0.1", 30000, 30009), 6: PortPool("::1", 30000, 30019)}

    def with_kernel(self, *streams: int, forwarded: tuple[int, int, int] = (0, 0, 0)) -> None:
        self.in_kernel = set(streams)
        self.offload = SimpleNamespace(where=lambda stream: (stream in self.in_kernel, ""), forwarded=forwarded)

    def text(self) -> str:
        path: Any = SimpleNamespace(stats=lambda: self.stats)
        parts = Parts(
            path=path,
            offload=self.offload,
            pools=self.pools,
            table=self.table,
            calls=self.calls,
            requests=self.requests,
            quality=self.quality,
            started=100.0,
            now=lambda: 107.5,
        )
        return Metrics(parts).exposition().decode()

    def values(self, name: str) -> dict[str, float]:
        """The samples of a metric, by the values of their labels in the order of their names."""
        found = {}
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                if own_name(sample.name) == name:
                    found[" ".join(value for _, value in sorted(sample.labels.items()))] = sample.value
        return found

    def call(self, call_id: str = "c", *, sections: int = 1) -> None:
        how = Signalling()
        self.table.offer(call_id, "a", said("192.0.2.1", sections=sections), how, 0.0)
        self.table.answer(call_id, "a", "b", said("192.0.2.2", sections=sections), how, 0.0)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def own_name(parsed: str) -> str:
    """A name as it stands in the text: the parser gives every counter its ending, if need be."""
    name = parsed.removeprefix("rtpengine_")
    return name if name in METRICS else name.removesuffix("_total")


def families(text: str) -> dict[str, Metric]:
    """Each family by the name of its samples, of which there is one only."""
    found = {}
    for family in text_string_to_metric_families(text):
        names = {sample.name for sample in family.samples}
        assert len(names) == 1, family
        found[names.pop()] = family
    return found


@pytest.fixture(scope="module")
def scraped() -> Iterator[str]:
    """A scrape of a daemon that has had a call and a request, with all its parts but the control sockets."""
    options = config.parse(["--ip=127.0.0.1", "--listen-ng=127.0.0.1:2223", "--listen-http=8080", "--table=-1"])
    with socket.socket() as sock:
        daemon = Daemon(options, {"listen-http": sock})
    try:
        daemon.ng.answer(b"1", b"d7:command4:pinge", "127.0.0.1", 1.0, 1.0)
        daemon.table.offer("c", "a", said("127.0.0.1"), Signalling(), 1.0)
        assert daemon.web is not None
        content = daemon.web._pages["/metrics"]({}, 1.0, 1.0)
        assert content is not None and content.type == metrics.CONTENT_TYPE
        yield content.body.decode()
        daemon.table.end(daemon.table.find("c"), "deleted", 2.0)
    finally:
        daemon.close()


def test_names_types_and_labels(scraped: str) -> None:
    found = {own_name(name): (family.type, set(family.samples[0].labels)) for name, family in families(scraped).items()}
    assert found == EXPECTED
    assert list(found) == list(METRICS)


def test_help_ends_with_the_unit(scraped: str) -> None:
    for name, family in families(scraped).items():
        unit = re.fullmatch(r"[A-Z][^()]*[^ .] \(([a-z0-9 ]+)\)", family.documentation)
        assert unit and unit[1] in UNITS, name


def test_each_name_has_one_help_and_one_type_before_its_samples(scraped: str) -> None:
    for name in METRICS:
        lines = [line for line in scraped.splitlines() if re.search(rf"(^| )rtpengine_{name}[ {{]", line)]
        assert [line.split()[1] for line in lines[:2]] == ["HELP", "TYPE"], name
        assert lines[2:] and not any(line.startswith("#") for line in lines[2:])


def test_nothing_is_said_about_the_process(scraped: str) -> None:
    assert all(re.match(r"(# (HELP|TYPE) )?rtpengine_", line) for line in scraped.splitlines())


def test_the_daemon(scene: Scene) -> None:
    assert scene.values("uptime_seconds") == {"": 7.5}
    (labels,) = scene.values("build_info")
    assert rtpengine.__version__ in labels.split()
    assert scene.values("forwarding_path") == {"module": 0, "userspace": 1}
    scene.with_kernel()
    assert scene.values("forwarding_path") == {"module": 1, "userspace": 0}


def test_calls(scene: Scene) -> None:
    scene.call("c")
    scene.call("d")
    scene.table.end(scene.table.find("d"), "deleted", 3.0)
    assert scene.values("sessions") == {"own": 1}
    assert scene.values("sessions_total") == {"": 2}
    assert scene.values("closed_sessions_total") == {
        "terminated": 1,
        "timeout": 0,
        "silent_timeout": 0,
        "final_timeout": 0,
        "offer_timeout": 0,
        "force_terminated": 0,
        "rejected": 0,
    }
    assert scene.values("call_duration_avg") == scene.values("call_duration_total") == {"": 3.0}
    assert scene.values("call_duration2_total") == {"": 9.0}
    assert scene.values("zero_packet_streams_total") == {"": 2}
    assert scene.values("one_way_sessions_total") == {"": 0}


def test_calls_that_are_refused(scene: Scene) -> None:
    scene.call("c")
    assert scene.values("draining") == {"": 0}
    scene.table.admission.drain(1, 0.0, 0.0)
    with pytest.raises(LoadLimit):
        scene.call("d")
    assert scene.values("draining") == {"": 1}
    assert scene.values("closed_sessions_total")["rejected"] == 1
    assert scene.values("sessions_total") == {"": 1}


def test_streams_by_path(scene: Scene) -> None:
    scene.call(sections=4)
    assert scene.values("mediastreams") == {"userspace": 4, "kernel": 0, "mixed": 0}
    rtp = sorted(stream for ports in scene.transport.opened.values() for stream in ports.streams[::2])
    sides = [rtp[i : i + 2] for i in range(0, len(rtp), 2)]
    scene.with_kernel(*sides[0], sides[1][0], sides[2][1])
    assert scene.values("mediastreams") == {"userspace": 1, "kernel": 1, "mixed": 2}


def test_a_section_that_is_rejected_is_no_stream(scene: Scene) -> None:
    scene.table.offer("c", "a", said("192.0.2.1"), Signalling(), 0.0)
    scene.table.answer("c", "a", "b", said("192.0.2.2", port=0), Signalling(), 0.0)
    assert scene.values("mediastreams") == {"userspace": 0, "kernel": 0, "mixed": 0}


def test_ports(scene: Scene) -> None:
    port, sockets = scene.pools[4].take(2, 0.0)
    for sock in sockets:
        sock.close()
    assert scene.values("ports") == {"127.0.0.1 default": 10, "::1 default": 20}
    assert scene.values("ports_used") == {"127.0.0.1 default": 4, "::1 default": 0}
    assert scene.values("ports_free") == {"127.0.0.1 default": 6, "::1 default": 20}


def test_packets(scene: Scene) -> None:
    scene.with_kernel(forwarded=(60, 12_000, 1))
    assert scene.values("packets_total") == {"userspace": 40, "kernel": 60}
    assert scene.values("bytes_total") == {"userspace": 8_000, "kernel": 12_000}
    assert scene.values("packet_errors_total") == {"userspace": 2, "kernel": 1}
    assert scene.values("dropped_packets_total") == {**dict.fromkeys(DROP_REASONS, 0), "source": 2}
    assert scene.values("lost_events_total") == {"": 4}


def test_interfaces(scene: Scene) -> None:
    assert scene.values("interface_packets") == {
        "127.0.0.1 ingress default": 80,
        "::1 ingress default": 20,
        "127.0.0.1 egress default": 30,
        "::1 egress default": 70,
    }
    assert scene.values("interface_bytes")["::1 egress default"] == 14_000
    assert scene.values("interface_errors")["127.0.0.1 ingress default"] == 1
    assert scene.values("interface_errors")["127.0.0.1 egress default"] == 2


def test_quality(scene: Scene) -> None:
    scene.quality.follow(Quality(expected=900, lost=9, duplicates=2, reordered=3, skips=4, resets=5))
    for name, value in (("packets_lost", 9), ("rtp_duplicates", 2), ("rtp_reordered", 3), ("rtp_skips", 4)):
        assert scene.values(name) == {"": value}
    assert scene.values("rtp_seq_resets") == {"": 5}
    for mos in (4.0, 3.0):
        scene.quality.add(Sample(0.0, 250, 0.02, 5.0, mos), Far(jitter_ms=7.0, rtt_ms=None))
    scene.quality.add(Sample(0.0, 0, 0.0, 0.0, None), Far())
    for name, total, squares, samples in (
        ("mos", 7, 25, 2),
        ("packetloss", 4, 8, 2),
        ("jitter_measured", 10, 50, 2),
        ("jitter", 14, 98, 2),
        ("rtt_e2e", 0, 0, 0),
    ):
        found = [scene.values(f"{name}{ending}")[""] for ending in ("_total", "2_total", "_samples_total")]
        assert found == [total, squares, samples], name


def test_requests(scene: Scene) -> None:
    scene.requests.count("192.0.2.9", "offer", 0.25, failed=False)
    scene.requests.count("192.0.2.9", "offer", 0.5, failed=True)
    assert scene.values("requests_total") == {"192.0.2.9 offer": 2}
    assert scene.values("request_seconds_total") == {"192.0.2.9 offer": 0.75}
    assert scene.values("errors_total") == {"192.0.2.9": 1}


def test_two_daemons_do_not_share_a_registry(scene: Scene) -> None:
    other = Scene()
    other.call()
    assert scene.values("sessions") == {"own": 0}
    assert other.values("sessions") == {"own": 1}
