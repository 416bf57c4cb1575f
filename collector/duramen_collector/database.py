"""The database: engine, pragmas, migrations.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit that returned is on disk, which is what
``accepted`` promises. Whoever means to write says so when the transaction begins (:func:`writing`), and
takes the write lock then: a transaction that reads first and upgrades later can fail in the middle, one
that waits at its beginning cannot. Several processes may share the file (``serve`` and the command line);
they wait for each other up to ``BUSY_TIMEOUT_MS``.

Foreign exceptions end here: :func:`writing` and :func:`reading` raise StorageError for whatever the
database does wrong.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from duramen.errors import ConfigurationError, StorageError

BUSY_TIMEOUT_MS: Final = 30_000
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_WRITE: Final = "duramen_write"


def open_database(path: Path) -> sa.Engine:
    """An engine on the SQLite file ``path``, which is created for its owner alone when it is not there."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigurationError(f"the database {path} cannot be opened: {error.strerror}") from error
    engine = sa.create_engine(
        sa.URL.create("sqlite+pysqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        pool_size=8,
        max_overflow=56,
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def writing_connection(engine: sa.Engine) -> sa.Connection:
    """A connection for one who begins transactions himself: each of them takes the write lock."""
    return engine.connect().execution_options(**{_WRITE: True})


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that holds the write lock from its beginning.

    Committed, and synced, when the block ends well.
    """
    with _mapped(), writing_connection(engine) as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that reads one state of the database."""
    with _mapped(), engine.connect() as connection, connection.begin():
        yield connection


def upgrade(engine: sa.Engine) -> None:
    """Bring the schema to this release's revision, in one transaction.

    Does nothing when it is there already.
    """
    with writing(engine) as connection:
        configuration = _alembic(connection)
        try:
            command.upgrade(configuration, "head")
        except CommandError as error:
            raise ConfigurationError(
                "the database was written by a newer release; install that release or restore a copy"
            ) from error


def revision(engine: sa.Engine) -> tuple[str | None, str | None]:
    """(the revision of the database, the revision that this release wants)."""
    with reading(engine) as connection:
        there = MigrationContext.configure(connection).get_current_revision()
        return there, ScriptDirectory.from_config(_alembic(connection)).get_current_head()


def demand_current(engine: sa.Engine) -> None:
    """ConfigurationError unless the schema is at this release's revision."""
    there, wanted = revision(engine)
    if there != wanted:
        raise ConfigurationError(
            f"the database is at revision {there or 'none'} and not at {wanted}; run duramen-collector init"
        )


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StorageError(f"the database failed: {cause}") from error


def _alembic(connection: sa.Connection) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    configuration.attributes["connection"] = connection
    return configuration


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver's guess
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "trusted_schema=OFF",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
