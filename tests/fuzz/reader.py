"""What the fuzzer gives, taken from the front; zeroes when it is used up. The twin of input.h."""

from __future__ import annotations


class Reader:
    """Numbers and bytes out of one input."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        """Whether something is left."""
        return bool(self._data)

    def octets(self, length: int) -> bytes:
        """So many bytes, or fewer at the end."""
        taken, self._data = self._data[:length], self._data[length:]
        return taken

    def number(self, length: int = 1) -> int:
        """A number in network order."""
        return int.from_bytes(self.octets(length).ljust(length, b"\0"), "big")
