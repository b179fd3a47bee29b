"""What the demo says about streams: the live figures, the table at the end, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import StreamResult

_BAR = 24


@dataclass(frozen=True)
class StreamReport:
    """One direction of call ``call``; ``wav`` is what the listener heard, RTCP in packets."""

    call: int
    speaker: str
    listener: str
    speaker_host: str
    listener_host: str
    result: StreamResult
    reports_sent: int
    reports_received: int
    wav: Path

    @property
    def name(self) -> str:
        """Such as ``Alice > Bob``."""
        return f"{self.speaker} > {self.listener}"

    @property
    def path(self) -> str:
        """Such as ``Alice 127.0.0.1 -> Bob [::1]``."""
        return f"{self.speaker} {_literal(self.speaker_host)} -> {self.listener} {_literal(self.listener_host)}"

    def faults(self) -> list[str]:
        """What went wrong, in words; [] if nothing did."""
        result = self.result
        checks = [
            (result.sent == 0, "nothing was sent"),
            (result.lost, f"{result.lost} of {result.sent} packets lost"),
            (result.stray, f"{result.stray} packets that should not have come"),
            (result.wrong_samples, f"{result.wrong_samples} of {len(result.said.octets)} samples differ"),
            (
                self.reports_received != self.reports_sent,
                f"{self.reports_received} of {self.reports_sent} RTCP reports unharmed",
            ),
        ]
        return [text for bad, text in checks if bad]


def live_line(name: str, result: StreamResult) -> str:
    """The figures of a stream while it runs."""
    median_ms, max_ms = result.latency_ms
    latency = f"latency {median_ms:.2f} ms, max {max_ms:.2f}" if result.received else ""
    return f"  {name}   sent {result.sent:3}   heard {result.received:3}   lost {result.lost}   {latency}".rstrip()


def progress_line(frames: int, total: int, doing: str) -> str:
    """A bar for ``frames`` of ``total`` frames of 20 ms."""
    bar = "#" * (_BAR * frames // total)
    return f"  [{bar:.<{_BAR}}] {frames / 50:3.1f} of {total / 50:.1f} s   {doing}"


def table(reports: Sequence[StreamReport]) -> list[str]:
    """A heading and one line per stream, no line longer than 80 columns for the demo's addresses."""
    heading = ("call", "stream", "sent", "heard", "lost", "latency ms", "audio")
    rows = [heading, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    return [
        "  ".join(
            _cell(text, width, column) for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(report: StreamReport) -> tuple[str, ...]:
    result = report.result
    median_ms, max_ms = result.latency_ms
    latency = f"{median_ms:.2f}/{max_ms:.2f}" if result.received else "-"
    audio = "DIFFERS" if result.wrong_samples or not result.received else "identical"
    return str(report.call), report.path, str(result.sent), str(result.received), str(result.lost), latency, audio


def _cell(text: str, width: int, column: int) -> str:
    """Words to the left, figures to the right."""
    return text.ljust(width) if column in (0, 1, 6) else text.rjust(width)


def verdict(reports: Sequence[StreamReport], faults: Sequence[str]) -> tuple[bool, str]:
    """Whether all went well, and the last line of the demo. ``faults`` are those that no stream knows of."""
    bad = [*faults]
    for report in reports:
        if texts := report.faults():
            bad.append(f"call {report.call} {report.name}: {', '.join(texts)}")
    if bad or not reports:
        return False, f"FAIL: {'; '.join(bad) or 'no call was placed'}"
    packets = sum(report.result.received for report in reports)
    return True, f"PASS: {packets:,} packets relayed, 0 lost, audio identical in all {len(reports)} streams"


def _literal(host: str) -> str:
    return f"[{host}]" if ":" in host else host
