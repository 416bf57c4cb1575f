"""The spool's tables, and the mapping of SQLite's errors to ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import apsw

from duramen.errors import ConfigurationError, StorageError

SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE chain (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    tenant TEXT NOT NULL, agent TEXT NOT NULL, chain BLOB NOT NULL,
    seq INTEGER NOT NULL, head BLOB NOT NULL, records INTEGER NOT NULL, next_public BLOB NOT NULL,
    sealed_ns INTEGER NOT NULL, stopped INTEGER NOT NULL, keys BLOB NOT NULL,
    accepted_seq INTEGER NOT NULL DEFAULT -1, published_seq INTEGER NOT NULL DEFAULT -1,
    seen_size INTEGER NOT NULL DEFAULT 0, seen_root BLOB NOT NULL, seen_note BLOB NOT NULL DEFAULT x'',
    configuration BLOB NOT NULL, fingerprint_key BLOB NOT NULL, next_generation INTEGER NOT NULL DEFAULT 1,
    lost_bytes INTEGER NOT NULL DEFAULT 0, loss_events INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE shred_group (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE block (
    seq INTEGER PRIMARY KEY, size INTEGER NOT NULL, sealed_ns INTEGER NOT NULL, published_ns INTEGER,
    header BLOB NOT NULL, signature BLOB NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE TABLE envelope (
    dek BLOB PRIMARY KEY, keys_seq INTEGER NOT NULL, shred_group INTEGER NOT NULL, class INTEGER NOT NULL,
    accepted INTEGER NOT NULL DEFAULT 0, upload BLOB NOT NULL
) STRICT;
CREATE TABLE position (
    generation INTEGER PRIMARY KEY, stream TEXT NOT NULL, path BLOB NOT NULL,
    device TEXT NOT NULL, inode TEXT NOT NULL,
    file_offset INTEGER NOT NULL, size INTEGER NOT NULL, head_size INTEGER NOT NULL, head BLOB NOT NULL,
    continuing INTEGER NOT NULL
) STRICT;
CREATE TABLE event (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, record BLOB NOT NULL) STRICT;
"""


class SpoolFull(StorageError):  # noqa: N818  # it says what is the matter, as apsw.FullError does
    """The disk under the spool has no room left; nothing of the transaction was kept."""


@contextmanager
def mapped(path: str) -> Iterator[None]:
    """Map every error of apsw to one of ours."""
    try:
        yield
    except apsw.FullError as error:
        raise SpoolFull(
            f"the disk under the spool {path} is full; free some space, reading resumes by itself"
        ) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise ConfigurationError(f"the spool {path} is in use by another agent; stop it first") from error
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError, apsw.AuthError) as error:
        raise ConfigurationError(
            f"the spool {path} cannot be written ({error}); check the state directory and its owner"
        ) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StorageError(
            f"the spool {path} is damaged ({error}); keep it, and enrol this host as a replacement"
        ) from error
    except apsw.Error as error:
        raise StorageError(f"the spool {path} failed: {error}; check the disk under it") from error
