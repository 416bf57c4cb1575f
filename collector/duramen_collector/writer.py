"""One thread that owns all writing: requests queue, and commit in groups.

A synced commit costs milliseconds and can carry many requests. The thread takes what has queued (at most
``BATCH``) into one transaction, each request in a savepoint of its own: one that raises is undone alone and
hurts no other. Nobody is answered before the commit has returned, so ``accepted`` means on disk. When the
database itself fails, the whole group is undone and each of its requests gets a StorageError: they may be
sent again.

The queue is bounded: past ``QUEUE`` waiting requests, :meth:`Writer.submit` refuses with 503 ``busy``. The
same transaction order is kept against other processes by SQLite's write lock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from duramen.errors import StorageError
from duramen_collector.database import writing
from duramen_collector.refusal import refuse

BATCH: Final = 64
QUEUE: Final = 512

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Task:
    work: Callable[[sa.Connection], Any]
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class _Alone:
    work: Callable[[], Any]
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    task: _Task | _Alone
    result: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, task: _Alone) -> _Outcome:
        try:
            return cls(task, task.work())
        except Exception as error:  # noqa: BLE001  # belongs to whoever waits for this task
            return cls(task, error=error)

    def tell(self) -> None:
        if self.error is not None:
            self.task.future.set_exception(self.error)
        else:
            self.task.future.set_result(self.result)


class Writer:
    """Runs functions of a connection, one after the other, in its thread. ``commits`` counts transactions."""

    def __init__(self, engine: sa.Engine, batch: int = BATCH, capacity: int = QUEUE) -> None:
        self._engine = engine
        self._batch = batch
        self._queue: queue.Queue[_Task | _Alone | None] = queue.Queue(capacity)
        self._lock = threading.Lock()
        self._closed = False
        self.commits = 0
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, work: Callable[[sa.Connection], T]) -> Future[T]:
        """Queue ``work``; the future is done when its transaction is committed.

        Refused with 503 when there is no room.
        """
        future: Future[T] = Future()
        self._put(_Task(work, future))
        return future

    def submit_alone(self, work: Callable[[], T]) -> Future[T]:
        """Queue ``work``, which has transactions of its own.

        It runs in this thread while none of ours is open.
        """
        future: Future[T] = Future()
        self._put(_Alone(work, future))
        return future

    def perform(self, work: Callable[[sa.Connection], T]) -> T:
        """:meth:`submit`, and wait: for threads that are not the event loop's."""
        return self.submit(work).result()

    def close(self) -> None:
        """Refuse what comes, finish what waits, end the thread."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._queue.put(None)
        self._thread.join()

    def _put(self, task: _Task | _Alone) -> None:
        with self._lock:
            if self._closed:
                raise refuse(503, "busy", "the collector is stopping; go to another one or try again later")
            try:
                self._queue.put_nowait(task)
            except queue.Full as error:
                raise refuse(503, "busy", "the collector has too much to do; try again later") from error

    def _run(self) -> None:
        group: list[_Task] = []
        while True:
            try:
                item = self._queue.get(block=not group)
            except queue.Empty:
                group = self._commit(group)
                continue
            if isinstance(item, _Task):
                group.append(item)
            if not isinstance(item, _Task) or len(group) >= self._batch:
                group = self._commit(group)
            if isinstance(item, _Alone) and item.future.set_running_or_notify_cancel():
                _Outcome.of(item).tell()
            if item is None:
                return

    def _commit(self, group: list[_Task]) -> list[_Task]:
        """Perform and commit what has gathered; returns the next group, which is empty."""
        tasks = [task for task in group if task.future.set_running_or_notify_cancel()]
        if not tasks:
            return []
        outcomes: list[_Outcome] = []
        try:
            with writing(self._engine) as connection:
                outcomes.extend(_perform(connection, task) for task in tasks)
            self.commits += 1
        except StorageError as error:
            outcomes = [_Outcome(task, error=error) for task in tasks]
        for outcome in outcomes:
            outcome.tell()
        return []


def _perform(connection: sa.Connection, task: _Task) -> _Outcome:
    savepoint = connection.begin_nested()
    try:
        result = task.work(connection)
    except Exception as error:
        if isinstance(error, SQLAlchemyError) and not isinstance(error, IntegrityError):
            raise  # more than a constraint: the transaction itself cannot be trusted any more
        savepoint.rollback()
        return _Outcome(task, error=error)
    savepoint.commit()
    return _Outcome(task, result)
