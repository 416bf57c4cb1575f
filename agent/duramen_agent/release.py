"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "duramen-agent"


def release() -> str:
    """The version of the installed distribution; ``0+source`` where it runs from a source tree."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0+source"
