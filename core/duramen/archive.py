"""A zip archive with exactly one encoding, for evidence bundles (DESIGN 9).

Any zip tool can read it (APPNOTE 6.3.10: local headers, central directory, end record). What it fixes:
entries sorted by name, all of them stored, 1980-01-01 for a time, mode 0444, no comments, extra fields,
data descriptors, encryption or ZIP64. So the same files give the same bytes with any version of any
library, and :func:`parse_archive` accepts those bytes only: an entry more, a byte before, between or after,
or a size that lies is a FormatError.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from typing import Final

from duramen.errors import FormatError
from duramen.limits import BUNDLE_MAX_BYTES

ENTRIES_MAX: Final = 65_534
NAME_MAX_BYTES: Final = 255

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_VERSION: Final = 20
_UNIX: Final = 3 << 8
_DATE: Final = 0x0021  # 1980-01-01
_MODE: Final = (0o100444) << 16
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*", re.ASCII)


def encode_archive(files: Mapping[str, bytes]) -> bytes:
    """The archive of ``files``; FormatError past the limits or for a name that is not lower-case ASCII."""
    if not files or len(files) > ENTRIES_MAX:
        raise FormatError(f"an archive holds 1 to {ENTRIES_MAX} files, not {len(files)}")
    parts: list[bytes] = []
    central: list[bytes] = []
    offset = 0
    for name in sorted(files):
        data = files[name]
        if len(name) > NAME_MAX_BYTES or not _NAME.fullmatch(name):
            raise FormatError(f"{name!r} is not a name for a file in an archive")
        label = name.encode()
        measures = (_VERSION, 0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(label), 0)
        local = _LOCAL.pack(b"PK\x03\x04", *measures) + label
        if offset + len(local) + len(data) > BUNDLE_MAX_BYTES:
            raise FormatError(f"an archive has at most {BUNDLE_MAX_BYTES} bytes; disclose less in one bundle")
        central.append(
            _CENTRAL.pack(b"PK\x01\x02", _UNIX | _VERSION, *measures, 0, 0, 0, _MODE, offset) + label
        )
        parts += (local, data)
        offset += len(local) + len(data)
    directory = b"".join(central)
    end = _END.pack(b"PK\x05\x06", 0, 0, len(files), len(files), len(directory), offset, 0)
    return b"".join((*parts, directory, end))


def parse_archive(data: bytes) -> dict[str, bytes]:
    """The files in ``data`` by name.

    FormatError unless :func:`encode_archive` would write these very bytes.
    """
    if not _END.size < len(data) <= BUNDLE_MAX_BYTES * 2:
        raise FormatError(f"an archive of {len(data)} bytes is no bundle")
    magic, *_, entries, _, directory, _ = _END.unpack_from(data, len(data) - _END.size)
    if magic != b"PK\x05\x06":
        raise FormatError("a bundle is a zip archive that ends with its directory, without a comment")
    files: dict[str, bytes] = {}
    offset = 0
    while offset < directory:
        name, start, end = _entry(data, offset)
        if name in files or len(files) >= entries:
            raise FormatError("a bundle names a file twice, or holds more files than it counts")
        files[name] = data[start:end]
        offset = end
    if encode_archive(files) != data:
        raise FormatError("a bundle is not in the one encoding that bundles have")
    return files


def _entry(data: bytes, offset: int) -> tuple[str, int, int]:
    """Name, start and end of the entry whose local header is at ``offset``."""
    if offset + _LOCAL.size > len(data):
        raise FormatError("a bundle ends within an entry")
    magic, *_, size, _, name_size, _ = _LOCAL.unpack_from(data, offset)
    start = offset + _LOCAL.size + name_size
    if magic != b"PK\x03\x04" or name_size > NAME_MAX_BYTES or start + size > len(data):
        raise FormatError("a bundle holds something that is not a stored entry")
    try:
        name = data[offset + _LOCAL.size : start].decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("a bundle holds a file whose name is not ASCII") from error
    return name, start, start + size
