"""Tailing: which files there are, which generation each belongs to, and fair rounds of reading them.

The invariant that every test asserts: the chunks of a generation, concatenated, are the file byte for byte.

Two kinds of rounds, kept apart. A *discovery* looks at names: it expands the patterns, finds every known
generation under the name it has now, begins generations for files not seen before. It runs when an adapter
reports a path that is not where it was, and every :data:`RESCAN_NS` as a safety net, for file systems that
report nothing. A *read round* looks at contents, only of files that discovery or a reported change made
ready. An idle file costs one stat a rescan.

A generation ends when its file is truncated or rewritten (found by :mod:`duramen_agent.generation`), or
when the file was unlinked, is read to its end, and was quiet for :data:`QUIET_NS`. A renamed file is
followed under its new name, inside or outside of the patterns, for as long as it has one in the same
directory; its last line, if unfinished, is sealed as torn once it is quiet. Descriptors are kept open so
that an unlinked file can be read to its end, up to ``max_open``; past that the least recently read ones
that are idle are closed.

After a restart, generations are found by device and inode, under any name in the directory they were in, and
recognised by their first bytes. One that is not found ends with an event, but only where its directory could
be listed on the same device: an unmounted or unreadable directory is waited for.

What this cannot see: a file created and unlinked between two looks; a second name of a file that is read
already (each file is read once, for the first source that matches it); a copy of a file, which is another
file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from duramen.ports import Disk, FileStat
from duramen_agent.agentstatus import SourceStatus
from duramen_agent.batch import Batch, Ending
from duramen_agent.event import AgentEvent, EventKind, readable
from duramen_agent.generation import Chunk, Generation, Outcome
from duramen_agent.lookup import NO_FILE_YET, Expansion, Lookup, reason_of
from duramen_agent.position import Position
from duramen_agent.source import Slot, Source, Watch
from duramen_agent.step import Moment

RESCAN_NS: Final = 10 * 10**9
QUIET_NS: Final = 30 * 10**9
DISCOVERY_SPACING_NS: Final = 100 * 10**6
"""Reported changes start at most one discovery in this time."""


class Tailer:
    """All files of all sources; single-threaded, and deterministic given the disk."""

    def __init__(
        self,
        disk: Disk,
        sources: Sequence[Source],
        positions: Iterable[Position],
        next_generation: int,
        fingerprint_key: bytes,
        max_open: int = 512,
    ) -> None:
        self._disk = disk
        self._sources = tuple(sources)
        self._key = fingerprint_key
        self._next_generation = next_generation
        self._max_open = max_open
        self._by_identity: dict[tuple[int, int], Generation] = {}
        self._by_name: dict[bytes, Generation] = {}
        self._lookup = Lookup(disk, self._sources)
        self._expansion = Expansion({}, {})
        """What the patterns matched at the last discovery."""
        self._ready: dict[int, Generation] = {}
        self._open: dict[int, Generation] = {}
        self._endings: deque[Ending] = deque()
        self._expected: set[int] = set()
        """Rotated files at whose end there was nothing left to read when they were looked at last."""
        self._last_discovery_ns: int | None = None
        self._discovery_due = True
        by_stream = {source.stream: source for source in self._sources}
        for position in positions:
            source = by_stream.get(position.stream)
            if source is None:
                continue  # no longer configured: its position stays in the spool, should it come back
            generation = Generation(position, source, fingerprint_key)
            generation.name = None
            self._by_identity[generation.identity] = generation

    # Names

    def watches(self) -> frozenset[Watch]:
        """What an adapter should report changes of."""
        return frozenset(watch for source in self._sources for watch in source.watches())

    def paths_changed(self, paths: Iterable[bytes] | None, now: Moment) -> None:
        """Something happened to ``paths``; None: anything may have happened.

        A directory among them (a new one, or one whose watch has just come into force) means all that is in
        it.
        """
        if paths is None:
            self._discovery_due = True
            return
        for path in paths:
            known = self._by_name.get(path)
            try:
                stat = self._disk.stat(path)
            except OSError:
                self._discovery_due = self._discovery_due or known is not None
                continue
            if known is not None and known.identity == (stat.device, stat.inode):
                if known.observe(stat, now.monotonic_ns):
                    self._ready[known.number] = known
            elif (
                known is not None
                or not stat.is_regular
                or any(source.may_match(path) for source in self._sources)
            ):
                self._discovery_due = True

    def discovery_deadline_ns(self) -> int:
        """When :meth:`discover` is due; monotonic ns."""
        if self._last_discovery_ns is None:
            return 0
        spacing = DISCOVERY_SPACING_NS if self._discovery_due else RESCAN_NS
        return self._last_discovery_ns + spacing

    def discover(self, now: Moment) -> None:
        """One discovery round."""
        self._last_discovery_ns, self._discovery_due = now.monotonic_ns, False
        expansion = self._expansion = self._lookup.expand()
        seen: dict[tuple[int, int], bytes] = {}
        for path, match in expansion.matches.items():
            identity = (match.stat.device, match.stat.inode)
            if identity in seen:
                continue
            seen[identity] = path
            generation = self._by_identity.get(identity)
            if generation is None:
                generation = self._begin(path, match.stat, match.source)
            self._found(generation, path, match.stat, now)
        missing = [item for item in self._by_identity.values() if item.identity not in seen]
        self._search(missing, now)
        self._by_name = {item.name: item for item in self._by_identity.values() if item.name is not None}
        for generation in list(self._by_identity.values()):
            self._settle(generation, now)

    def _begin(self, path: bytes, stat: FileStat, source: Source) -> Generation:
        number = self._next_generation
        self._next_generation += 1
        position = Position(number, source.stream, path, stat.device, stat.inode, 0, 0, 0, b"")
        generation = Generation(position, source, self._key)
        self._by_identity[generation.identity] = generation
        return generation

    def _found(self, generation: Generation, path: bytes, stat: FileStat, now: Moment) -> None:
        if generation.name != path:
            generation.quiet_since_ns = now.monotonic_ns
        generation.name = path
        changed = generation.observe(stat, now.monotonic_ns) or generation.problem is not None
        generation.problem = None
        if changed or (generation.unfinished and self._is_over(generation, now)):
            self._ready[generation.number] = generation
        idle = self._is_over(generation, now) and generation.end == stat.size
        (self._expected.add if idle else self._expected.discard)(generation.number)

    def _search(self, missing: Sequence[Generation], now: Moment) -> None:
        """Look for files that no pattern matches any more: by the name they had, or beside it."""
        for generation in missing:
            try:
                self._search_one(generation, now)
            except OSError as error:  # nothing can be concluded from what cannot be looked at
                self._unseen(generation, reason_of(error))

    def _unseen(self, generation: Generation, problem: str) -> None:
        """The name cannot be looked at; what is open is read all the same."""
        generation.problem = problem
        if generation.file is not None:
            self._ready[generation.number] = generation

    def _search_one(self, generation: Generation, now: Moment) -> None:
        at = generation.name or generation.path
        stat = self._lookup.stat(at)
        if stat is None or (stat.device, stat.inode) != generation.identity:
            hit = self._lookup.beside(at).get(generation.identity)
            if hit is None or not self._recognises(generation, hit[0]):
                self._lost_sight(generation, at, now)
                return
            at, stat = hit
        self._found(generation, at, stat, now)

    def _recognises(self, generation: Generation, path: bytes) -> bool:
        """Whether ``path`` is the generation's file, not another under its inode. May raise OSError."""
        if generation.file is not None:
            return True
        try:
            generation.file = self._disk.open(path)
            stat = generation.file.stat()
            same = (stat.device, stat.inode) == generation.identity and generation.is_same(stat)
        finally:
            generation.close()
        return same

    def _lost_sight(self, generation: Generation, at: bytes, now: Moment) -> None:
        """The file has no name in its directory: it is unlinked, unless the directory cannot be seen."""
        if not self._lookup.can_judge(at, generation.device):
            self._unseen(generation, "its directory cannot be listed, or is not mounted")
            return
        if generation.name is not None:
            generation.quiet_since_ns = now.monotonic_ns
        generation.name, generation.problem = None, None

    def _settle(self, generation: Generation, now: Moment) -> None:
        """Open what may be needed, and end what is over."""
        if generation.name is None and generation.problem is None:
            if generation.file is None:
                self._vanish(generation, now)
                return
            self._ready[generation.number] = generation  # its growth is reported by nobody
        elif generation.name is not None and generation.file is None and len(self._open) < self._max_open:
            self._reopen(generation, now)

    def _vanish(self, generation: Generation, now: Moment) -> None:
        if generation.number in self._expected:  # the last of its rotations, long read to its end
            self._end(generation, None)
            return
        self._end(
            generation,
            AgentEvent(
                EventKind.VANISHED,
                now.wall_ns,
                {
                    **_names(generation),
                    "detail": "the file went away while it was not open: what it held last cannot be known",
                },
                lost_bytes=max(0, generation.size - generation.sealed),
            ),
        )

    def _end(self, generation: Generation, event: AgentEvent | None, chunks: Sequence[Chunk] = ()) -> None:
        """Forget a generation; what is to be sealed about it goes with the next round."""
        position = generation.position(gone=True)
        self._endings.append(Ending(generation.source.slot, chunks, event, position))
        generation.close()
        self._open.pop(generation.number, None)
        self._ready.pop(generation.number, None)
        self._expected.discard(generation.number)
        self._by_identity.pop(generation.identity, None)
        if generation.name is not None and self._by_name.get(generation.name) is generation:
            del self._by_name[generation.name]

    # Descriptors

    def _reopen(self, generation: Generation, now: Moment) -> bool:
        """Open the file under its name, if it is the one that was read before.

        Otherwise another generation begins.
        """
        name = generation.name
        if name is None:
            return False
        if not self._make_room():
            generation.problem = "too many files are open at once; it is read as soon as others are done"
            return False
        try:
            file = self._disk.open(name)
            stat = file.stat()
            generation.file = file
            if (stat.device, stat.inode) != generation.identity:
                generation.close()
                self._discovery_due = True
                return False
            same = generation.is_same(stat)
        except OSError as error:
            generation.close()
            generation.problem = reason_of(error)
            return False
        generation.problem = None
        self._open[generation.number] = generation
        if not same:
            self._replace(generation, stat, now, reopened=True)
            return False
        if generation.end < stat.size:
            self._ready[generation.number] = generation
        return True

    def _make_room(self) -> bool:
        """Close the least recently read idle file that can be found again, if no more may be open."""
        if len(self._open) >= self._max_open:
            idle = (
                item
                for item in self._open.values()
                if item.name is not None and not item.behind and item.number not in self._ready
            )
            victim = next(idle, None)
            if victim is None:
                return False
            victim.close()
            del self._open[victim.number]
        return True

    def _replace(self, generation: Generation, stat: FileStat, now: Moment, *, reopened: bool) -> None:
        """End this generation and begin the next: the file is not what was read before.

        It was truncated or rewritten; or, if it was ``reopened``, it may be another one under the same inode.
        """
        chunks = generation.salvage(now.wall_ns)
        details = {
            **_names(generation),
            "size_before": generation.size,
            "size_after": stat.size,
            "detail": "the file was truncated, rewritten or replaced"
            + (" while it was not open" if reopened else "")
            + ": what was written after the last look and before that cannot be known",
        }
        lost = generation.lost_bytes(stat.size)
        file, generation.file = generation.file, None
        self._end(generation, AgentEvent(EventKind.TRUNCATED, now.wall_ns, details, lost), chunks)
        if reopened and generation.name not in self._expansion.matches:
            # It was followed out of the patterns: another file there is not to be read.
            if file is not None:
                file.close()
            return
        following = self._begin(generation.name or generation.path, stat, generation.source)
        following.name = generation.name
        following.file = file
        self._open[following.number] = following
        if following.name is not None:
            self._by_name[following.name] = following
        following.observe(stat, now.monotonic_ns)
        self._ready[following.number] = following

    # Contents

    def backlog_bytes(self, slot: Slot) -> int:
        """Bytes known to wait for being read, at least."""
        return sum(item.behind for item in self._ready.values() if item.source.slot == slot)

    def ready_slots(self) -> set[Slot]:
        """Where a read round may find something."""
        return {item.source.slot for item in self._ready.values()} | self.ending_slots()

    def ending_slots(self) -> set[Slot]:
        """Where a file ended: what is to be said about it does not wait."""
        return {ending.slot for ending in self._endings}

    def read_round(self, budget_bytes: int, now: Moment, slots: Iterable[Slot]) -> list[Batch]:
        """Read files of ``slots`` in turn, one quantum each, until ``budget_bytes`` or nothing is ready.

        Every batch has to be sealed and given to :meth:`commit` before the next round.
        """
        wanted = set(slots)
        batches = {slot: Batch(slot) for slot in wanted}
        found = self._take_endings(batches, budget_bytes)
        queue = [item for item in self._ready.values() if item.source.slot in wanted]
        queue.sort(key=lambda item: item.file is None)  # those that are open make room for the others
        while queue and found < budget_bytes:
            again = []
            for index, generation in enumerate(queue):
                if found >= budget_bytes:
                    again.extend(queue[index:])
                    break
                chunks, more = self._read(generation, now)
                if chunks:
                    found += batches[generation.source.slot].add(generation, chunks)
                if more:
                    self._ready[generation.number] = generation
                    again.append(generation)
            queue = again
        return [item for item in batches.values() if item.chunks or item.events or item.gone]

    def _take_endings(self, batches: Mapping[Slot, Batch], budget_bytes: int) -> int:
        found = 0
        waiting: deque[Ending] = deque()
        while self._endings and found < budget_bytes:
            ending = self._endings.popleft()
            if ending.slot in batches:
                found += batches[ending.slot].end(ending)
            else:
                waiting.append(ending)
        self._endings.extendleft(reversed(waiting))
        return found

    def _read(self, generation: Generation, now: Moment) -> tuple[list[Chunk], bool]:
        """Read once; whether to come back in this round."""
        opened = generation.file is not None or self._reopen(generation, now)
        self._ready.pop(generation.number, None)
        if not opened:
            return [], False
        self._open[generation.number] = self._open.pop(generation.number)  # most recently read last
        over = self._is_over(generation, now)
        before = generation.end
        try:
            chunks, outcome = generation.read(now.wall_ns, final=over)
        except OSError as error:
            generation.problem = reason_of(error)
            return [], False
        generation.problem = None
        if outcome is Outcome.REPLACED:
            self._replaced(generation, now)
            return [], False
        if generation.end != before:
            generation.quiet_since_ns = now.monotonic_ns
        elif over and outcome is Outcome.END and generation.name is None:
            self._end(generation, None)
        return chunks, outcome is Outcome.MORE

    def _replaced(self, generation: Generation, now: Moment) -> None:
        try:
            stat = generation.file.stat() if generation.file is not None else None
        except OSError:
            stat = None
        if stat is not None:
            self._replace(generation, stat, now, reopened=False)

    def _is_over(self, generation: Generation, now: Moment) -> bool:
        return generation.rotated and now.monotonic_ns - generation.quiet_since_ns >= QUIET_NS

    def commit(self, batch: Batch) -> None:
        """The batch is sealed and durable."""
        for generation in batch.generations.values():
            generation.sealed_all()

    def held_bytes(self) -> int:
        """Unread bytes of unlinked files, which only our descriptors keep on the disk."""
        return sum(item.behind for item in self._by_identity.values() if item.name is None and item.file)

    def drop_held(self, limit_bytes: int, now: Moment) -> None:
        """Let the oldest unlinked files go, with an event each, until at most ``limit_bytes`` are held."""
        held = [item for item in self._by_identity.values() if item.name is None and item.file is not None]
        for generation in held:
            try:
                if generation.file is not None:
                    generation.observe(generation.file.stat(), now.monotonic_ns)
            except OSError as error:
                generation.problem = reason_of(error)
        for generation in sorted(held, key=lambda item: item.number):
            if self.held_bytes() <= limit_bytes:
                return
            details = {
                **_names(generation),
                "size_before": generation.size,
                "detail": "the spool or its disk was full, and spool.hold_bytes was reached",
            }
            lost = max(0, generation.size - generation.taken)
            self._end(generation, AgentEvent(EventKind.DROPPED, now.wall_ns, details, lost))

    def statuses(self) -> list[SourceStatus]:
        """One for each file, and one for each pattern without a file."""
        found = [
            SourceStatus(
                stream=item.source.stream,
                path=readable(item.path),
                file=None if item.name is None else readable(item.name),
                offset=item.sealed,
                size=item.size,
                behind_bytes=max(0, item.size - item.sealed),
                state=item.problem
                or ("unlinked" if item.name is None else "rotated" if item.rotated else "reading"),
                is_problem=item.problem is not None,
            )
            for item in self._by_identity.values()
        ]
        for (number, pattern), reason in self._expansion.waiting.items():
            stream = self._sources[number].stream
            problem = reason != NO_FILE_YET
            found.append(SourceStatus(stream, readable(pattern), None, 0, 0, 0, reason, problem))
        return found

    def close(self) -> None:
        """Release every descriptor."""
        for generation in self._by_identity.values():
            generation.close()
        self._open.clear()


def _names(generation: Generation) -> dict[str, str | int]:
    return {
        "stream": generation.source.stream,
        "path": readable(generation.path),
        "file": generation.position().file,
        "offset": generation.sealed,
    }
