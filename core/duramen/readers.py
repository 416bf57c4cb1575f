"""Regions and logs as an auditor reads them: a directory, or a web server with the same names. Read-only.

Both read at most :data:`OBJECT_MAX_BYTES` of an object: no object of a region is larger, so a larger one
shows as damaged and cannot exhaust memory. Directories skip names that begin with a dot, which stores keep
for themselves.

A web server cannot list: packs are then found from ``head`` backwards, and kept checkpoints are not
checked. Needs the extra ``duramen[http]``; a server that wants a token gets it as a bearer token, and only
over TLS or on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

from duramen.errors import ConfigurationError, StorageError, UsageError
from duramen.limits import PACK_MAX_BYTES
from duramen.packs import RegionReader

if TYPE_CHECKING:
    import httpx

OBJECT_MAX_BYTES: Final = PACK_MAX_BYTES + 1
TIMEOUT_SECONDS: Final = 30.0


class DirectoryReader:
    """Objects as files below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> bytes | None:
        """The file's bytes; None when there is no such file."""
        return self.read_start(key, OBJECT_MAX_BYTES)

    def read_start(self, key: str, count: int) -> bytes | None:
        """The file's first bytes."""
        if key.startswith("/") or ".." in key.split("/"):
            raise UsageError(f"the object key {key!r} leaves its directory")
        path = self._root / key
        try:
            with path.open("rb") as file:
                return file.read(min(count, OBJECT_MAX_BYTES))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error

    def keys(self, prefix: str) -> Iterator[str]:
        """The files below ``prefix``, ascending."""
        top = self._root / (prefix.rpartition("/")[0] if not prefix.endswith("/") else prefix)
        found = []
        for folder, folders, files in os.walk(top, onerror=_fail):
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(folder).relative_to(self._root)
            found += [(base / name).as_posix() for name in files if not name.startswith(".")]
        yield from sorted(key for key in found if key.startswith(prefix))


class HttpReader:
    """Objects below a URL."""

    def __init__(self, client: httpx.Client, base: str, token: str | None = None) -> None:
        self._client = client
        self._base = base.rstrip("/") + "/"
        self._headers = {"Accept-Encoding": "identity"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def read(self, key: str) -> bytes | None:
        """GET; None for 404."""
        return self._get(key, OBJECT_MAX_BYTES, {})

    def read_start(self, key: str, count: int) -> bytes | None:
        """GET of a range, which a server may ignore."""
        return self._get(key, count, {"Range": f"bytes=0-{count - 1}"})

    def keys(self, prefix: str) -> None:
        """A web server does not list: no answer."""

    def _get(self, key: str, count: int, headers: dict[str, str]) -> bytes | None:
        import httpx  # noqa: PLC0415  # an extra: only who reads over HTTP needs it

        url = self._base + quote(key)
        try:
            with self._client.stream("GET", url, headers={**self._headers, **headers}) as response:
                if response.status_code == httpx.codes.NOT_FOUND:
                    return None
                if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                    raise StorageError(f"{url} answered with status {response.status_code}")
                data = bytearray()
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) >= count:
                        break
                return bytes(data[:count])
        except httpx.HTTPError as error:
            raise StorageError(f"cannot read {url}: {error or type(error).__name__}") from error


def open_reader(target: str, token: str | None = None) -> RegionReader:
    """A reader for a path, a ``file://`` URL or an ``http(s)://`` URL; UsageError for anything else."""
    parts = urlsplit(target)
    if parts.scheme in ("http", "https"):
        return _open_http(target, token)
    if token is not None:
        raise UsageError("a token is for http:// and https:// only")
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        root = Path(unquote(parts.path))
    elif "://" in target:
        raise UsageError(f"{target!r} is neither a directory nor a file://, http:// or https:// URL")
    else:
        root = Path(target)
    if not root.is_dir():
        raise ConfigurationError(f"{root} is not a directory; name the region's top directory")
    return DirectoryReader(root)


def _open_http(target: str, token: str | None) -> HttpReader:
    try:
        import httpx  # noqa: PLC0415  # an extra: only who reads over HTTP needs it
    except ImportError as error:
        raise ConfigurationError("reading over HTTP needs the extra duramen[http]; install it") from error
    parts = urlsplit(target)
    if (
        token is not None
        and parts.scheme == "http"
        and parts.hostname not in ("127.0.0.1", "::1", "localhost")
    ):
        raise UsageError("a token is not sent over http:// to another machine; use https://")
    return HttpReader(httpx.Client(timeout=TIMEOUT_SECONDS), target, token)


def _fail(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise StorageError(f"cannot list {error.filename}: {error.strerror}") from error
