"""rtpengine: a media proxy for SIP, controlled by Kamailio or OpenSIPS."""

import logging
from typing import ClassVar

__version__ = "3.0.0"

NOTICE = 25
"""The logging level of syslog's "notice", between INFO and WARNING."""


class ProtocolError(Exception):
    """Bad input from a client; the text is the reason that it is told."""


class ResourceError(Exception):
    """Something has run out (ports, descriptors); the text is the reason that the client is told.

    ``detail`` is for the operator: of what there is too little.
    """

    level: ClassVar[int] = logging.WARNING
    """At which the refused request is logged."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class LoadLimit(ResourceError):
    """No new call is taken now, because somebody wants it so, which was logged when it began."""

    level = logging.INFO
