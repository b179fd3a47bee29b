"""How the daemon becomes a service: its default file, its kernel table and its firewall rules."""

import sys


class ServiceError(Exception):
    """The service cannot start; the text is one line that says why, with file and line where a file is wrong."""


def say(text: str) -> None:
    """A line for the journal, or for who called the init script."""
    print(f"rtpengine: {text}", file=sys.stderr)
