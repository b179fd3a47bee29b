"""What rtpengine-ctl prints: the plain values of a reply as lines for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Values = Mapping[str, Any]


def render(words: Sequence[str], data: Any) -> str:
    """The lines of a reply to these words, each with its end."""
    name = " ".join(words[:2]) if words[0] in ("list", "call") else words[0]
    show = _SHOWN.get(name, _plain)
    if name == "list sessions" and isinstance(data, dict):
        show = _plain
    return "".join(f"{printable(line)}\n" for line in show(data))


def printable(text: str) -> str:
    """``text`` without anything that a terminal would take for a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float | None) -> str:
    """``4 s``, ``3:07``, ``1:02:45`` or ``2 d 1:02:45``; ``-`` for none."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours}:{minutes:02}:{rest:02}"
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as what is in them; numbers, which begin with a digit, to the right."""
    shown = [[printable(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(headings))]
    right = [bool(rows) and all(row[i][:1].isdigit() or row[i] == "-" for row in rows) for i in range(len(headings))]
    for row in shown:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, right, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _plain(data: Any) -> Iterator[str]:
    """Any value, one line for each fact in it, indented by where it is."""
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, dict | list) and value:
                yield f"{_words(key)}:"
                yield from (f"  {line}" for line in _plain(value))
            else:
                yield f"{_words(key)}: {_value(key, value)}"
    elif isinstance(data, list):
        for value in data:
            if isinstance(value, dict | list):
                first = True
                for line in _plain(value):
                    yield f"{'-' if first else ' '} {line}"
                    first = False
            else:
                yield f"- {value}"
    else:
        yield str(data)


def _words(key: str) -> str:
    return (
        key.removesuffix("_s").removesuffix("_s_ago").replace("_", " ")
        if key.endswith(("_s", "_s_ago"))
        else (key.replace("_", " "))
    )


def _value(key: str, value: Any) -> str:
    if value is None or value == [] or value == {} or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_s_ago"):
        return f"{duration(value)} ago"
    return duration(value) if key.endswith("_s") else str(value)


def _sessions(calls: list[Values]) -> Iterator[str]:
    if not calls:
        yield "no calls"
        return
    rows = [
        (
            call["call_id"],
            duration(call["age_s"]),
            duration(call["signalled_s_ago"]),
            " ".join(filter(None, call["tags"])),
        )
        for call in calls
    ]
    yield from table(("CALL-ID", "AGE", "SIGNALLED", "TAGS"), rows)


def _usage(commands: list[Values]) -> Iterator[str]:
    return table(("COMMAND", "DOES"), [(command["command"], command["does"]) for command in commands])


def _interfaces(interfaces: list[Values]) -> Iterator[str]:
    rows = [
        (
            i["name"],
            i["address"],
            i["advertised"],
            f"{i['port_min']}-{i['port_max']}",
            f"{i['ports']}",
            f"{i['used']}",
            f"{i['free']}",
        )
        for i in interfaces
    ]
    yield from table(("NAME", "ADDRESS", "ADVERTISED", "RANGE", "PORTS", "USED", "FREE"), rows)


def _status(status: Values) -> Iterator[str]:
    rest = {key: value for key, value in status.items() if key not in ("interfaces", "drops")}
    yield from _plain(rest)
    yield f"drops: {_drops(status['drops'])}"
    yield ""
    yield from _interfaces(status["interfaces"])


def _why(call: Values) -> Iterator[str]:
    yield f"call {call['call_id']}, {duration(call['age_s'])} old, signalled {duration(call['signalled_s_ago'])} ago"
    yield f"ends in {duration(call['ends_in_s'])} if {call['ends_because']}"
    if call["debug"]:
        yield "all about it is logged"
    for stream in call["streams"]:
        yield ""
        yield from _stream(stream)
    yield ""
    yield "events:"
    yield from _events(call)


def _stream(stream: Values) -> Iterator[str]:
    who = f"tag {stream['tag']}" if stream["tag"] else "the party that has not answered"
    yield f"section {stream['section']} ({stream['type']}) {stream['component']} of {who}: {stream['state']}"
    yield f"  here        {stream['local']}, in {stream['path']}" + (
        f": {stream['reason']}" if stream["reason"] else ""
    )
    yield f"  advertised  {stream['advertised'] or '-'}"
    learned = "confirmed" if stream["confirmed"] else "not confirmed"
    yield f"  sent to     {stream['learned'] or '-'} ({learned}), heard from {stream['accepted'] or '-'}"
    secure = [f"{key.upper()} {stream[key]}" for key in ("ice", "dtls") if key in stream]
    secure += [stream["suite"]] if "suite" in stream else []
    if secure:
        yield f"  secured by  {', '.join(secure)}"
    yield f"  received    {stream['packets']} packets, {stream['bytes']} bytes, {stream['errors']} errors"
    if "expected" in stream:
        mos = "" if stream["mos"] is None else f", MOS {stream['mos']:.2f}"
        share = 100 * stream["lost"] / stream["expected"]
        yield f"  quality     {stream['lost']} lost ({share:.1f} %), jitter {stream['jitter_ms']:.1f} ms{mos}"
    yield f"  dropped     {_drops(stream['drops'])}"
    last = "never" if stream["last_packet_s_ago"] is None else f"{duration(stream['last_packet_s_ago'])} ago"
    yield f"  last packet {last}, times out in {duration(stream['times_out_in_s'])}"


def _events(call: Values) -> Iterator[str]:
    for event in call["events"]:
        clock = time.strftime("%H:%M:%S", time.localtime(event["at"]))
        port = "" if event["port"] is None else f"port {event['port']}: "
        yield f"  {clock}  {port}{event['event']}"
    if call["events_dropped"]:
        yield f"  ({call['events_dropped']} in between are forgotten)"


def _drops(drops: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in drops.items() if count) or "nothing"


_SHOWN: dict[str, Callable[[Any], Iterator[str]]] = {
    "status": _status,
    "why": _why,
    "usage": _usage,
    "list sessions": _sessions,
    "list interfaces": _interfaces,
}
