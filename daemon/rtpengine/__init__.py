"""rtpengine: a media proxy for SIP, controlled by Kamailio or OpenSIPS."""

__version__ = "3.0.0"

NOTICE = 25
"""The logging level of syslog's "notice", between INFO and WARNING."""


class ProtocolError(Exception):
    """Bad input from a client; the text is the reason that it is told."""


class ResourceError(Exception):
    """Something has run out (ports, descriptors); the text is the reason that the client is told."""
