"""A region's store as :mod:`duramen.audit` reads it, and the same with some objects exchanged in memory.

Reads are bounded: of an object larger than any of a region may be, what is read shows as damaged. A store
that fails raises StorageError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from duramen.errors import StorageError
from duramen.limits import PACK_MAX_BYTES
from duramen.packs import RegionReader
from duramen_collector.store.port import Absent, Answer, Failed, Found, Get, List, Listed, ObjectStore, Stat

OBJECT_MAX_BYTES: Final = PACK_MAX_BYTES + 1


class StoreReader:
    """The objects of a store."""

    def __init__(self, name: str, store: ObjectStore) -> None:
        self._name = name
        self._store = store

    def read(self, key: str) -> bytes | None:
        """The object, up to the size that one may have."""
        return self.read_start(key, OBJECT_MAX_BYTES)

    def read_start(self, key: str, count: int) -> bytes | None:
        """The object's first bytes."""
        answer = self._store.perform(Get(key, 0, count))
        if isinstance(answer, Absent):
            return None
        if isinstance(answer, Found):
            return answer.data
        raise self._error(answer)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        answer = self._store.perform(Stat(key))
        if isinstance(answer, Found | Absent):
            return isinstance(answer, Found)
        raise self._error(answer)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with ``prefix``, ascending."""
        after, more = "", True
        while more:
            answer = self._store.perform(List(prefix, after))
            if not isinstance(answer, Listed):
                raise self._error(answer)
            yield from answer.keys
            more = answer.more
            after = answer.keys[-1] if answer.keys else ""

    def _error(self, answer: Answer) -> StorageError:
        reason = answer.reason if isinstance(answer, Failed) else f"unexpected answer {type(answer).__name__}"
        return StorageError(f"region {self._name}: {reason}")


class OverlayReader:
    """A region as it would be with some objects exchanged."""

    def __init__(self, reader: RegionReader, objects: Mapping[str, bytes]) -> None:
        self._reader = reader
        self._objects = objects

    def read(self, key: str) -> bytes | None:
        """The exchanged object, or the region's own."""
        return self._objects[key] if key in self._objects else self._reader.read(key)

    def read_start(self, key: str, count: int) -> bytes | None:
        """The first bytes of either."""
        return self._objects[key][:count] if key in self._objects else self._reader.read_start(key, count)

    def keys(self, prefix: str) -> Iterable[str] | None:
        """The keys of both."""
        own = self._reader.keys(prefix)
        if own is None:
            return None
        return sorted({*own, *(key for key in self._objects if key.startswith(prefix))})
