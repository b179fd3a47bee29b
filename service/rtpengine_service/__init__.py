"""How the daemon becomes a service: its default file, its kernel table and its firewall rules."""


class ServiceError(Exception):
    """The service cannot start; the text is one line that says why, with file and line where a file is wrong."""
