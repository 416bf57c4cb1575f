"""JSON with exactly one encoding: what notices, manifests and key lists are written in.

Keys sorted by code point, no white space, UTF-8 without needless escapes, no floats, no duplicate keys,
integers within ±2**53 (larger ones travel as decimal strings, see :func:`wide`). A byte string is accepted
only when encoding what it decodes to gives the same bytes, so there is nothing left to interpret
differently. This is RFC 8785 (JCS) for values without floats and keys without surrogate pairs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from duramen.errors import FormatError

_SAFE: Final = 2**53
_MAX_DEPTH: Final = 32

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]


def encode(value: object) -> bytes:
    """The one encoding of ``value``; FormatError for floats, wide integers, or text that is not Unicode."""
    _check(value, 0)
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FormatError("JSON text holds a lone surrogate, which UTF-8 cannot express") from error


def decode(data: bytes, what: str) -> Json:
    """The value of ``data``, which must be its one encoding. ``what`` names the thing in the error."""
    try:
        value = json.loads(data.decode(), parse_float=_no_float, parse_constant=_no_float)
        same = encode(value) == data
    except (ValueError, RecursionError, FormatError) as error:
        raise FormatError(f"{what} is not canonical JSON: {error}") from error
    if not same:
        raise FormatError(f"{what} is JSON, but not in its canonical encoding")
    return value  # type: ignore[no-any-return]  # json.loads is untyped; _check has seen every value


def read(data: bytes, what: str) -> Json:
    """Any JSON without floats and duplicate keys, whatever its white space and order.

    For requests and answers.
    """
    try:
        value: Json = json.loads(
            data.decode(), parse_float=_no_float, parse_constant=_no_float, object_pairs_hook=_unique
        )
        _check(value, 0)
    except (ValueError, RecursionError, FormatError) as error:
        raise FormatError(f"{what} is not JSON as expected: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise FormatError("an object names a key twice")
    return value


def _no_float(text: str) -> Json:
    raise FormatError(f"the number {text} is not an integer")


def _check(value: object, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise FormatError(f"JSON is nested deeper than {_MAX_DEPTH} levels")
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > _SAFE:
            raise FormatError(f"the integer {value} is past 2**53 and has to be written as a string")
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise FormatError("JSON keys are strings")
            _check(item, depth + 1)
    else:
        raise FormatError(f"JSON cannot hold a {type(value).__name__}")


def wide(value: int) -> int | str:
    """An integer as JSON carries it: itself within 2**53, a decimal string past it."""
    return value if abs(value) <= _SAFE else str(value)


class Fields:
    """Strict access to a decoded JSON object: every key is asked for once, and none may be left over."""

    __slots__ = ("_left", "_what", "value")

    def __init__(self, value: Json, what: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{what} is not a JSON object")
        self.value = value
        self._left = dict(value)
        self._what = what

    def has(self, key: str) -> bool:
        """Whether ``key`` is there and has not been taken."""
        return key in self._left

    def take(self, key: str) -> Json:
        """The value of ``key``, which must be there."""
        if key not in self._left:
            raise FormatError(f"{self._what} lacks the field {key!r}")
        return self._left.pop(key)

    def text(self, key: str, limit: int = 4096) -> str:
        """A string of at most ``limit`` characters."""
        value = self.take(key)
        if not isinstance(value, str) or len(value) > limit:
            raise FormatError(
                f"the field {key!r} of {self._what} is not a string of at most {limit} characters"
            )
        return value

    def uint(self, key: str, limit: int = 2**64 - 1) -> int:
        """An unsigned integer up to ``limit``, in the one form that :func:`wide` gives it."""
        value = self.take(key)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
            number = int(value)
            if str(number) == value and _SAFE < number <= limit:
                return number
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= min(limit, _SAFE):
            return value
        raise FormatError(f"the field {key!r} of {self._what} is not an unsigned integer up to {limit}")

    def flag(self, key: str) -> bool:
        """A boolean."""
        value = self.take(key)
        if not isinstance(value, bool):
            raise FormatError(f"the field {key!r} of {self._what} is not true or false")
        return value

    def hexed(self, key: str, size: int) -> bytes:
        """``size`` bytes in lower-case hex."""
        value = self.text(key, 2 * size)
        try:
            data = bytes.fromhex(value)
        except ValueError as error:
            raise FormatError(f"the field {key!r} of {self._what} is not lower-case hex") from error
        if data.hex() != value or len(data) != size:
            raise FormatError(f"the field {key!r} of {self._what} is not {size} bytes in lower-case hex")
        return data

    def items(self, key: str, limit: int) -> list[Json]:
        """An array of at most ``limit`` values."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) > limit:
            raise FormatError(f"the field {key!r} of {self._what} is not an array of at most {limit} values")
        return value

    def labels(self, key: str, limit: int = 32) -> Mapping[str, str]:
        """An object whose values are all strings."""
        value = self.take(key)
        if not isinstance(value, dict) or len(value) > limit:
            raise FormatError(
                f"the field {key!r} of {self._what} is not an object of at most {limit} strings"
            )
        for name, item in value.items():
            if not isinstance(item, str):
                raise FormatError(f"the label {name!r} of {self._what} is not a string")
        return {name: str(item) for name, item in value.items()}

    def finish(self) -> None:
        """Demand that every key has been taken."""
        if self._left:
            raise FormatError(f"{self._what} has the unknown field {min(self._left)!r}")
