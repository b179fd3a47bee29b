"""Shows the main job done: four calls with real speech through the daemon, on loopback, in about 25 seconds.

Run from the repository root as ``.venv/bin/python tests/demo/demo.py``; exit status 0 if all went well.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import kernel_view
from calls import PLANS, CallOutcome, CallPlan, DemoCall
from ng_client import NgClient, NgError
from relay import DEFAULT_COMMAND, Relay, RelayError
from report import StreamReport, table, verdict
from screen import Screen
from speech import Recording, parse_wav

_SPEECH = Path(__file__).parents[1] / "data" / "speech"
_INTERRUPTED = 130

_KEEP = """
The daemon (process {pid}) stays up until you press Ctrl-C.
To use it, tell your SIP proxy where it is:

  Kamailio:  loadmodule "rtpengine.so"
             modparam("rtpengine", "rtpengine_sock", "udp:127.0.0.1:{port}")
  OpenSIPS:  loadmodule "rtpengine.so"
             modparam("rtpengine", "rtpengine_sock", "udp:127.0.0.1:{port}")

A ping by hand, in another terminal (bash); the answer is "1 d6:result4:ponge":

  exec 3<>/dev/udp/127.0.0.1/{port}; printf '1 d7:command4:pinge' >&3
  timeout 1 head -c 18 <&3; echo

It was started as:
  {command}
and relays on loopback only; --ip=YOUR-ADDRESS relays calls from elsewhere.
"""


def main() -> int:
    """Run the demo; return the exit status."""
    options = _options()
    screen = Screen()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _demonstrate(options, screen)
    except KeyboardInterrupt:
        screen.say("\nInterrupted; the daemon has been ended.")
        return _INTERRUPTED
    except (RelayError, OSError) as error:
        reason, _, details = str(error).partition("\n")
        screen.say(f"\n{details}\n" if details else "")
        screen.say(f"FAIL: {reason}", "red")
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Place four calls with real speech through rtpengine on loopback.")
    parser.add_argument("--keep", action="store_true", help="leave the daemon up afterwards, until Ctrl-C")
    parser.add_argument("--rtpengine", metavar="PATH", default=".venv/bin/rtpengine", help="the daemon (%(default)s)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("demo-output"),
        help="where to write recordings and the daemon's log (%(default)s)",
    )
    parser.add_argument(
        "--table",
        metavar="N",
        type=int,
        default=-1,
        help="forward in the kernel with this table, to which a rule of iptables leads; none by default",
    )
    # For trying the demo itself on another daemon that speaks ng; see Relay for the names in braces.
    parser.add_argument("--command", metavar="TEMPLATE", default=DEFAULT_COMMAND, help=argparse.SUPPRESS)
    return parser.parse_args()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on Ctrl-C."""
    raise KeyboardInterrupt


def _demonstrate(options: argparse.Namespace, screen: Screen) -> int:
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob("call*-heard.wav"):
        stale.unlink()
    plans, notes = _feasible(PLANS if options.table < 0 else [plan.longer for plan in PLANS])
    screen.say("rtpengine demo: real speech, both ways, through the media proxy on this machine", "bold")
    log = output / "rtpengine.log"
    with Relay(options.command, options.rtpengine, log, ipv6=_has_ipv6(), table=options.table) as relay:
        relay.await_ping()
        screen.say(f"Daemon: process {relay.pid}, ng port {relay.ng_port}, log {relay.log}")
        outcomes = _place_calls(plans, relay, screen, output, options.table)
        passed = _conclude(outcomes, notes, screen, output)
        if options.keep:
            screen.say(_KEEP.format(pid=relay.pid, port=relay.ng_port, command=relay.command))
            _keep_up(relay, screen)
    return 0 if passed else 1


def _keep_up(relay: Relay, screen: Screen) -> None:
    """Return on Ctrl-C; RelayError if the daemon ends before."""
    try:
        relay.wait()
    except KeyboardInterrupt:
        screen.say("\nThe daemon has been ended.")
    else:
        relay.check_alive()


def _feasible(plans: Sequence[CallPlan]) -> tuple[list[CallPlan], list[str]]:
    """The calls that this machine can carry, and a note for each of the others."""
    feasible = [plan for plan in plans if ":" not in plan.bob_host or _has_ipv6()]
    return feasible, [f"call {plan.number} left out: no ::1 here" for plan in plans if plan not in feasible]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _place_calls(
    plans: Sequence[CallPlan], relay: Relay, screen: Screen, output: Path, kernel_table: int
) -> list[CallOutcome]:
    forwarded = partial(kernel_view.forwarded, kernel_table) if kernel_table >= 0 else None
    alice, bob = (_recording(name) for name in ("alice", "bob"))
    outcomes = []
    with NgClient(relay.ng_port) as ng:
        for plan in plans:
            screen.say(f"\nCall {plan.number}: {plan.title}", "bold")
            try:
                outcome = DemoCall(plan, ng, relay.ports, screen, forwarded).run(alice, bob, output)
            except NgError as error:
                relay.check_alive()
                outcome = CallOutcome([], [f"call {plan.number}: {error}"])
            for fault in outcome.faults:
                screen.say(f"  {fault}", "red")
            outcomes.append(outcome)
    relay.check_alive()
    return outcomes


def _recording(name: str) -> Recording:
    return parse_wav((_SPEECH / f"{name}.wav").read_bytes())


def _conclude(outcomes: Sequence[CallOutcome], notes: Sequence[str], screen: Screen, output: Path) -> bool:
    """Show table and verdict; return whether all went well."""
    streams: list[StreamReport] = [stream for outcome in outcomes for stream in outcome.streams]
    screen.say()
    heading, *rows = table(streams)
    screen.say(heading, "bold")
    for row in rows:
        screen.say(row)
    screen.say(f"\nWhat each party heard: {output}/call*-heard.wav, compared sample by sample.")
    screen.say("Latency: from phone to phone through the daemon, median/maximum.")
    passed, text = verdict(streams, [fault for outcome in outcomes for fault in outcome.faults])
    screen.say("; ".join([text, *notes]), "green" if passed else "red")
    return passed


if __name__ == "__main__":
    sys.exit(main())
