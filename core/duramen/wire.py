"""Reading and writing fixed binary layouts: big-endian, bounded, every byte accounted for."""

from __future__ import annotations

from duramen.errors import FormatError


class Reader:
    """Consumes a byte string from front to back; anything missing or left over is a FormatError."""

    __slots__ = ("_data", "_offset", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._offset = 0
        self._what = what

    @property
    def offset(self) -> int:
        """How many bytes have been consumed."""
        return self._offset

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self._offset + count
        if count < 0 or end > len(self._data):
            raise FormatError(
                f"{self._what} ends after {len(self._data)} bytes where at least {end} were expected"
            )
        piece = self._data[self._offset : end]
        self._offset = end
        return piece

    def uint(self, size: int) -> int:
        """The next ``size`` bytes as an unsigned big-endian integer."""
        return int.from_bytes(self.take(size), "big")

    def prefixed(self, size: int, limit: int) -> bytes:
        """A byte string behind a length of ``size`` bytes that may not exceed ``limit``."""
        length = self.uint(size)
        if length > limit:
            raise FormatError(f"{self._what} holds a field of {length} bytes; at most {limit} are allowed")
        return self.take(length)

    def finish(self) -> None:
        """Demand that nothing is left."""
        left = len(self._data) - self._offset
        if left:
            raise FormatError(f"{self._what} has {left} bytes after its end")


def uint(value: int, size: int) -> bytes:
    """``value`` as ``size`` big-endian bytes; a value that does not fit is a FormatError."""
    try:
        return value.to_bytes(size, "big")
    except OverflowError as error:
        raise FormatError(f"{value} does not fit in {size} bytes") from error


def prefixed(data: bytes, size: int) -> bytes:
    """``data`` behind its length in ``size`` bytes."""
    return uint(len(data), size) + data
