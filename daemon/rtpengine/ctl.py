"""rtpengine-ctl: asks a running daemon, and shows what it says."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rtpengine import __version__
from rtpengine.operator_commands import COMMANDS
from rtpengine.operator_text import duration, printable, render, table

DEFAULT_PORT = 9900
CONNECT_S = 10.0
REPLY_S = 60.0
# A screen has no more lines than that.
MAX_ROWS = 200


class Failure(Exception):
    """What ends the tool; the text is one line that says why."""


class Client:
    """A connection to the port of --listen-cli."""

    def __init__(self, host: str, port: int) -> None:
        try:
            self._socket = socket.create_connection((host, port), CONNECT_S)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Failure(f"{host} port {port}: {reason}; is --listen-cli set, and is it here?") from None
        self._socket.settimeout(REPLY_S)
        self._lines = self._socket.makefile("rb")

    def ask(self, words: Sequence[str]) -> Any:
        """The data of the reply; raise Failure with the reason if there is none."""
        try:
            self._socket.sendall(json.dumps(list(words)).encode() + b"\n")
            line = self._lines.readline()
        except OSError as error:
            raise Failure(f"no reply: {error.strerror or error}") from None
        if not line.endswith(b"\n"):
            raise Failure("no reply: the daemon has closed the connection, see --control-allow there")
        try:
            reply = json.loads(line)
            if reply["result"] == "ok":
                return reply["data"]
            reason = reply["reason"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise Failure("what answers there is not the port of --listen-cli") from None
        raise Failure(reason)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 1 after one line on standard error."""
    options = _parser().parse_intermixed_args(argv)
    try:
        client = Client(options.host, options.port)
        try:
            _run(client, options)
        finally:
            client.close()
    except Failure as failure:
        print(f"rtpengine-ctl: {printable(str(failure))}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        # Python writes what is left once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(client: Client, options: argparse.Namespace) -> None:
    if options.words[0] == "top" and not options.json:
        _top(client, options)
        return
    data = client.ask(options.words)
    print(json.dumps(data, indent=2) + "\n" if options.json else render(options.words, data), end="")


def _parser() -> argparse.ArgumentParser:
    rows = table(("Commands:", ""), [(f"  {command.synopsis}", command.text) for command in COMMANDS])
    parser = argparse.ArgumentParser(
        prog="rtpengine-ctl",
        usage="%(prog)s [OPTION...] COMMAND [ARGUMENT...]",
        description="Ask a running rtpengine that has --listen-cli, or tell it something.",
        epilog="\n".join(rows),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="+", metavar="COMMAND", help="see below; -- before a call-id that begins with -")
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where the daemon is (%(default)s)")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, metavar="PORT", help="its port (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the reply as JSON")
    parser.add_argument("--interval", type=_seconds, default=2.0, metavar="SECS", help="of top (%(default)s)")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="of top, 0: until interrupted (%(default)s)")
    parser.add_argument("--version", action="version", version=f"rtpengine-ctl {__version__}")
    return parser


def option_words() -> list[str]:
    """The options as bash completes them, each that takes a value with its ``=``."""
    actions = [action for action in _parser()._actions if action.option_strings]
    return [f"{action.option_strings[-1]}{'' if action.nargs == 0 else '='}" for action in actions]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!a} is not a port")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!a} is not 0.1 to 3600 seconds")
    return seconds


# A screen that keeps itself up to date


def _top(client: Client, options: argparse.Namespace) -> None:
    """Show rates again and again; on a terminal each screen takes the place of the last."""
    lines = shutil.get_terminal_size().lines
    words = options.words if len(options.words) > 1 else ["top", str(max(1, min(lines - 7, MAX_ROWS)))]
    before, asked = client.ask(words), time.monotonic()
    shown = 0
    while True:
        time.sleep(options.interval)
        now, at = client.ask(words), time.monotonic()
        screen = "".join(f"{line}\n" for line in screen_of(before, now, at - asked))
        # home, the screen with what was there cleared from each line on, and what is below
        print(
            f"\x1b[H{screen.replace(chr(10), chr(27) + '[K' + chr(10))}\x1b[J" if sys.stdout.isatty() else screen,
            end="",
        )
        sys.stdout.flush()
        before, asked, shown = now, at, shown + 1
        if shown == options.rounds:
            return


def screen_of(before: dict[str, Any], now: dict[str, Any], seconds: float) -> Iterator[str]:
    """The lines of one screen, from two replies to `top` and the time between them."""
    status, totals = now["status"], now["totals"]
    limit = f" of {status['max_sessions']}" if status["max_sessions"] else ""
    draining = f", draining, at most {duration(status['drain_ends_in_s'])} more" if status["draining"] else ""
    calls = f"calls: {status['sessions']}{limit}{draining}"
    yield f"rtpengine {status['version']}, up {duration(status['uptime_s'])}, {calls}"
    rates = {
        key: (totals[key] - before["totals"][key]) / seconds
        for key in ("packets", "bytes", "kernel_packets", "sessions")
    }
    dropped = sum(totals["drops"].values()) - sum(before["totals"]["drops"].values())
    yield (
        f"{rates['packets']:.0f} packets/s ({rates['kernel_packets']:.0f} in the kernel), "
        f"{rates['bytes'] * 8 / 1e6:.2f} Mbit/s, {dropped / seconds:.0f} dropped/s, {rates['sessions']:.1f} new calls/s"
    )
    for one in status["interfaces"]:
        yield f"{one['address']}: {one['used']} of {one['ports']} ports used"
    yield ""
    known = {call["call_id"]: call["packets"] for call in before["calls"]}
    rows = [
        (
            call["call_id"],
            duration(call["age_s"]),
            f"{(call['packets'] - known[call['call_id']]) / seconds:.0f}" if call["call_id"] in known else "-",
            f"{call['packets']}",
            f"{call['in_kernel']}/{call['streams']}",
            "never" if call["last_packet_s_ago"] is None else f"{duration(call['last_packet_s_ago'])} ago",
        )
        for call in now["calls"]
    ]
    yield from table(("CALL-ID", "AGE", "PACKETS/S", "PACKETS", "KERNEL", "LAST PACKET"), rows)


if __name__ == "__main__":
    sys.exit(main())
