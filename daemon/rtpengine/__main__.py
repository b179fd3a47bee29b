"""The program: options, sockets, daemonizing, then the daemon; what stops it at start-up is one line, status 255."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rtpengine import NOTICE, config, control, control_tcp, fdstore, log, process
from rtpengine.daemon import Daemon, Origin
from rtpengine.handover import HandoverError, Predecessor
from rtpengine.kernel import ROOT, KernelTable, NotLoaded, Unavailable
from rtpengine.option_values import start_directory
from rtpengine.options import ConfigError, OptionError
from rtpengine.replacement import own_command

_log = logging.getLogger(__name__)

# A two-party audio call takes four descriptors; below this an operator should know that limits stand in the way.
FEW_DESCRIPTORS = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon with these arguments (default: the process's); return the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    options = config.parse(arguments)
    directory = start_directory()
    descriptors = process.raise_limits()
    try:
        predecessor = _meet_predecessor(options)
        left = fdstore.find()
        sockets = _bind_controls(options, predecessor)
        ready = process.ready_in_foreground if options.foreground else process.daemonize(options.log_stderr)
        # Not before: the module shows which process has a table.
        kernel, notes = _open_kernel_table(options, ROOT, predecessor, calls_left=left is not None)
        give_back = process.write_pidfile(options.pidfile) if options.pidfile is not None else lambda: None
    except ConfigError as error:
        config.fail(error)
    where = {"foreground": options.foreground, "log_stderr": options.log_stderr}
    log.setup(options.log_level, options.log_facility, options.log_format, **where)
    for level, note in notes:
        _log.log(level, "%s", note)
    for warning in _warnings(options, descriptors):
        _log.warning("%s", warning)
    if options.takeover and predecessor is None:
        _log.log(
            NOTICE, "--takeover: no daemon listens on %s, so there are no calls to take over", options.takeover_socket
        )
    origin = Origin(own_command(), directory, predecessor, left)
    try:
        daemon = Daemon(options, sockets, kernel, partial(config.load, arguments), notes[0][1], origin)
    except BaseException:
        if predecessor is not None:
            give_back()
        raise
    return _serve(daemon, ready, give_back)


def _serve(daemon: Daemon, ready: Callable[[], None], give_back: Callable[[], None]) -> int:
    """Run the daemon; ``give_back`` its process id file where the one before goes on. Return the exit status."""
    try:
        asyncio.run(daemon.run(ready))
    except HandoverError as reason:
        give_back()
        _log.error("--takeover has failed, and the other daemon goes on: %s", reason)
        return config.EXIT_FAILURE
    except Exception:
        _log.exception("the daemon has failed")
        return config.EXIT_FAILURE
    return 0


def _meet_predecessor(options: config.Config) -> Predecessor | None:
    """The running daemon whose calls are to be taken over, None where there is none."""
    if not options.takeover or options.takeover_socket is None:
        return None
    try:
        return Predecessor.meet(options.takeover_socket)
    except HandoverError as error:
        raise OptionError("takeover", str(error)) from None


def _open_kernel_table(
    options: config.Config, root: Path, predecessor: Predecessor | None = None, *, calls_left: bool = False
) -> tuple[KernelTable | None, list[tuple[int, str]]]:
    """The table that ``--table`` asks for, None for userspace, and what to log about it.

    ``calls_left``: systemd has kept calls, whose streams those in the table may be.
    """
    if options.table < 0:
        return None, [(logging.INFO, config.forwarding(options, None))]
    try:
        inherited = None if predecessor is None else predecessor.kernel_table(options.table)
        if inherited is not None:
            return inherited, [(logging.INFO, config.forwarding(options, None))]
        table = KernelTable(options.table, root)
    except Unavailable as error:
        note = config.forwarding(options, str(error))
        if isinstance(error, NotLoaded):
            return None, [(logging.INFO, note)]
        print(f"rtpengine: {note}", file=sys.stderr)
        return None, [(logging.CRITICAL, note)]
    notes = [(logging.INFO, config.forwarding(options, None))]
    if table.taken_over:
        end = "they go on if their calls are restored" if options.redis_server or calls_left else "they end"
        left = f"kernel table {options.table} was left by another daemon, with {table.taken_over} streams: {end}"
        notes.append((NOTICE, left))
    return table, notes


# All others are of datagrams.
_BINDERS = {"listen-tcp": control_tcp.bind, "listen-http": control.bind_tcp, "listen-cli": control.bind_tcp}


def _bind_controls(options: config.Config, predecessor: Predecessor | None = None) -> dict[str, socket.socket]:
    """The control sockets by option, and those of HTTP and rtpengine-ctl; ``predecessor`` may have them already."""
    sockets = {}
    wanted = options.listeners
    if options.listen_http is not None:
        wanted["listen-http"] = options.listen_http
    if options.listen_cli is not None:
        wanted["listen-cli"] = options.listen_cli
    for option, (address, port) in wanted.items():
        inherited = None if predecessor is None else predecessor.listener(option, address, port)
        if inherited is not None:
            sockets[option] = inherited
            continue
        try:
            sockets[option] = _BINDERS.get(option, control.bind)(address, port)
        except OSError as error:
            reason = f"cannot listen on {address} port {port}: {error.strerror}"
            raise OptionError(option, reason) from None
    return sockets


def _warnings(options: config.Config, descriptors: int) -> list[str]:
    """What an operator should know although it does not stop the daemon."""
    warnings = [config.control_warning(options), config.http_warning(options)]
    for option, address in (("--ip", options.ip), ("--ip6", options.ip6)):
        if address is not None and not _is_local(address):
            warnings.append(f"{option}: {address} is not an address of this machine now, media cannot reach it")
    if descriptors < FEW_DESCRIPTORS:
        warnings.append(f"only {descriptors} descriptors allowed (four per call): raise the limit on open files")
    return [warning for warning in warnings if warning]


def _is_local(address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


if __name__ == "__main__":
    sys.exit(main())
