"""The writer: groups commit together, and one bad request hurts no other."""

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from duramen.errors import StorageError
from duramen_collector.database import open_database, reading, upgrade, writing_connection
from duramen_collector.refusal import Refused
from duramen_collector.schema import tenants
from duramen_collector.writer import Writer


def insert(name: str) -> Any:
    def work(connection: sa.Connection) -> str:
        connection.execute(tenants.insert().values(tenant=name, origin=name, public=False, created_ns=1))
        return name

    return work


def failing(name: str, error: Exception) -> Any:
    def work(connection: sa.Connection) -> None:
        insert(name)(connection)
        raise error

    return work


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    engine = open_database(tmp_path / "a.db")
    upgrade(engine)
    yield engine
    engine.dispose()


def names(engine: sa.Engine) -> set[str]:
    with reading(engine) as connection:
        return set(connection.execute(sa.select(tenants.c.tenant)).scalars())


def test_one_bad_request_hurts_no_other(engine: sa.Engine) -> None:
    writer = Writer(engine)
    futures: list[Future[Any]] = [
        writer.submit(insert("a")),
        writer.submit(failing("b", ValueError("no"))),
        writer.submit(insert("a")),
        writer.submit(insert("c")),
    ]
    writer.start()
    assert futures[0].result(10) == "a"
    assert isinstance(futures[1].exception(10), ValueError)
    assert isinstance(futures[2].exception(10), IntegrityError)
    assert futures[3].result(10) == "c"
    assert names(engine) == {"a", "c"}
    assert writer.commits == 1
    writer.close()


def test_groups_are_bounded_and_alone_runs_between_them(engine: sa.Engine) -> None:
    writer = Writer(engine, batch=2)
    connection = writing_connection(engine)

    def alone() -> set[str]:
        with connection.begin():
            insert("alone")(connection)
        return names(engine)

    futures = [writer.submit(insert(name)) for name in "abc"]
    between = writer.submit_alone(alone)
    bad = writer.submit_alone(lambda: 1 // 0)
    after = writer.submit(insert("d"))
    writer.start()
    assert between.result(10) == {"a", "b", "c", "alone"}
    assert isinstance(bad.exception(10), ZeroDivisionError)
    assert after.result(10) == "d"
    assert [future.result(10) for future in futures] == ["a", "b", "c"]
    assert writer.commits == 3
    writer.close()
    connection.close()


def test_nobody_is_answered_before_the_commit(engine: sa.Engine) -> None:
    writer = Writer(engine)
    seen: list[set[str]] = []
    future = writer.submit(insert("a"))
    future.add_done_callback(lambda _: seen.append(names(engine)))
    writer.start()
    future.result(10)
    writer.close()
    assert seen == [{"a"}]


def test_when_the_database_fails_the_whole_group_may_be_sent_again(engine: sa.Engine) -> None:
    writer = Writer(engine)
    first = writer.submit(insert("a"))
    broken = writer.submit(lambda connection: connection.exec_driver_sql("SELECT * FROM absent"))
    writer.start()
    assert isinstance(first.exception(10), StorageError)
    assert isinstance(broken.exception(10), StorageError)
    assert names(engine) == set()
    assert writer.perform(insert("a")) == "a"
    writer.close()


def test_the_queue_is_bounded_and_closing_finishes_what_waits(engine: sa.Engine) -> None:
    writer = Writer(engine, capacity=3)
    futures = [writer.submit(insert(name)) for name in "ab"]
    cancelled = writer.submit(insert("x"))
    assert cancelled.cancel()
    with pytest.raises(Refused) as caught:
        writer.submit(insert("c"))
    assert (caught.value.problem.status, caught.value.problem.code) == (503, "busy")
    writer.start()
    writer.close()
    writer.close()
    assert [future.result(0) for future in futures] == ["a", "b"]
    assert names(engine) == {"a", "b"}
    with pytest.raises(Refused):
        writer.submit(insert("d"))


def test_many_threads(engine: sa.Engine) -> None:
    writer = Writer(engine)
    writer.start()

    def work(number: int) -> None:
        for i in range(10):
            writer.perform(insert(f"t{number}-{i}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert len(names(engine)) == 80
    assert writer.commits <= 80
