"""Stores by URL: which implementation serves a region."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from duramen.errors import ConfigurationError
from duramen_collector.store.file_store import FileStore
from duramen_collector.store.port import ObjectStore


def open_store(url: str, *, create: bool = False) -> ObjectStore:
    """The store of a region's URL; ConfigurationError for one that this release cannot reach.

    ``file:///absolute/path`` is a directory. With ``create`` (the operator's init, and nobody else) it is
    made when it is missing, mode 0700; without, a missing directory is answered call by call with
    :class:`~duramen_collector.store.port.Failed`: it may be a volume that is not mounted at the moment.
    """
    parts = urlsplit(url)
    if parts.scheme in ("s3", "gs"):
        raise ConfigurationError(f"this release has file:// regions only; {url} needs a later one")
    if (
        parts.scheme != "file"
        or parts.netloc
        or parts.query
        or parts.fragment
        or not parts.path.startswith("/")
    ):
        raise ConfigurationError(f"{url} is not a region's address; write file:///absolute/path")
    root = Path(unquote(parts.path))
    if create:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the region's directory {root} cannot be made: {error.strerror}"
            ) from error
    return FileStore(root)
