"""Cutting a buffer into chunks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duramen_agent.generation import pieces

LIMIT = 7


@given(st.text("ab\n", max_size=60).map(str.encode), st.booleans(), st.booleans())
def test_pieces_cover_the_buffer_and_respect_the_limit(buffer: bytes, continuing: bool, final: bool) -> None:
    found = pieces(buffer, continuing=continuing, final=final, limit=LIMIT)
    at, within = 0, continuing
    for piece in found:
        raw = buffer[piece.start : piece.end]
        assert piece.start == at
        assert raw
        records = raw.split(b"\n")
        assert max(map(len, records[:-1]), default=-1) + 1 <= LIMIT
        if piece.more:
            assert len(raw) == LIMIT
            assert b"\n" not in raw
        elif within:
            assert raw.count(b"\n") <= 1
        at, within = piece.end, piece.more
    rest = buffer[at:]
    assert len(rest) < LIMIT
    assert b"\n" not in rest
    assert not (final and rest)


@given(st.text("ab\n", max_size=60).map(str.encode), st.lists(st.integers(1, 9)))
def test_how_the_bytes_arrive_does_not_change_the_records(buffer: bytes, sizes: list[int]) -> None:
    def records(parts: list[bytes]) -> list[bytes]:
        found, pending, within = [], b"", False
        for index, part in enumerate(parts):
            pending += part
            last = 0
            for piece in pieces(pending, continuing=within, final=index == len(parts) - 1, limit=LIMIT):
                raw = pending[piece.start : piece.end]
                found += [raw] if piece.more else raw.splitlines(keepends=True)
                last, within = piece.end, piece.more
            pending = pending[last:]
        return found

    parts, at = [], 0
    for size in sizes:
        parts.append(buffer[at : at + size])
        at += size
    assert records([*parts, buffer[at:]]) == records([buffer])
