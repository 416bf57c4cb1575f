"""The database: migrations make the declared schema, transactions are durable and exclusive."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from duramen.errors import ConfigurationError, StorageError
from duramen_collector.database import (
    demand_current,
    open_database,
    reading,
    revision,
    upgrade,
    writing,
)
from duramen_collector.schema import metadata, tenants


def insert(connection: sa.Connection, name: str) -> None:
    connection.execute(tenants.insert().values(tenant=name, origin=name, public=False, created_ns=1))


def fail(_connection: sa.Connection, _name: str) -> None:
    raise ZeroDivisionError


def clauses(sql: str) -> list[str]:
    """The columns and constraints of a CREATE statement, whatever their order."""
    inner = sql[sql.index("(") + 1 : sql.rindex(")")]
    return sorted(" ".join(line.split()).rstrip(",") for line in inner.split("\n"))


def test_migrations_make_the_declared_schema(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    assert revision(engine) == (None, "0001")
    with pytest.raises(ConfigurationError, match="run duramen-collector init"):
        demand_current(engine)
    upgrade(engine)
    upgrade(engine)
    demand_current(engine)
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
    migrated = {row.name: row.sql for row in rows if row.name != "alembic_version"}
    declared_engine = open_database(tmp_path / "b.db")
    with writing(declared_engine) as connection:
        metadata.create_all(connection)
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
    declared = {row.name: row.sql for row in rows}
    assert {name: clauses(sql) for name, sql in declared.items()} == {
        name: clauses(sql) for name, sql in migrated.items()
    }
    engine.dispose()
    declared_engine.dispose()


def test_a_database_of_a_newer_release(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    upgrade(engine)
    with writing(engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="newer release"):
        upgrade(engine)
    engine.dispose()


def test_an_interrupted_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_database(tmp_path / "a.db")
    monkeypatch.setattr(op, "create_index", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        upgrade(engine)
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one() == 0
    monkeypatch.undo()
    upgrade(engine)
    engine.dispose()


def test_pragmas_and_permissions(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    with reading(engine) as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert values == ["wal", 2, 1]
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600
    engine.dispose()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    upgrade(engine)
    for statements, error in (([insert, fail], ZeroDivisionError), ([insert, insert], StorageError)):
        with pytest.raises(error), writing(engine) as connection:
            _ = [statement(connection, "a") for statement in statements]
    with reading(engine) as connection:
        assert connection.execute(sa.select(tenants)).all() == []
    engine.dispose()


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    upgrade(engine)

    def increment() -> None:
        for _ in range(20):
            with writing(engine) as connection:
                created_ns = connection.execute(sa.select(tenants.c.created_ns)).scalar_one()
                connection.execute(tenants.update().values(created_ns=created_ns + 1))

    with writing(engine) as connection:
        insert(connection, "a")
    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as connection:
        assert connection.execute(sa.select(tenants.c.created_ns)).scalar_one() == 81
    engine.dispose()


def test_a_path_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        open_database(tmp_path / "absent" / "a.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"this is not a database at all" * 100)
    engine = open_database(tmp_path / "a.db")
    with pytest.raises(StorageError, match="not a database"):
        upgrade(engine)
    engine.dispose()
