"""Every way a log file lives and dies: what was sealed for each generation is the file, byte for byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from duramen.limits import RECORD_MAX_BYTES
from duramen.statement import BlockKind, Flags
from tests.agent.fake_disk import FakeDisk
from tests.agent.rig import SECOND, Host, append


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_file_is_sealed_from_its_beginning_and_as_it_grows(host: Host) -> None:
    log = host.logs / "a.log"
    written = append(log, b"one\ntwo\n")
    host.start()
    host.settle()
    for i in range(20):
        written += append(log, b"line %d\n" % i)
        host.changed(log)
        host.settle()
    assert host.verify().of(log) == [written]


def test_a_file_that_appears_later_is_found(host: Host) -> None:
    host.start()
    host.settle()
    log = host.logs / "late.log"
    host.now_ns += SECOND
    written = append(log, b"x\n")
    host.changed(log)
    host.settle()
    assert host.verify().of(log) == [written]


def test_without_any_report_the_rescan_finds_everything(host: Host) -> None:
    host.start()
    host.settle()
    log = host.logs / "silent.log"
    written = append(log, b"x\n")
    host.run(11)
    written += append(log, b"y\n")
    host.run(11)
    assert host.verify().of(log) == [written]


def test_a_torn_tail_waits_for_its_line_feed(host: Host) -> None:
    log = host.logs / "a.log"
    append(log, b"whole\npart")
    host.start()
    host.run(120)
    assert host.verify().of(log) == [b"whole\n"]
    append(log, b"ial\n")
    host.changed(log)
    host.settle()
    sealed = host.verify()
    assert sealed.of(log) == [b"whole\npartial\n"]
    assert all(run.lines == 1 for run in sealed.runs)


def test_rename_rotation_loses_nothing_and_reads_nothing_twice(host: Host) -> None:
    log, rotated = host.logs / "a.log", host.logs / "a.1.log"  # the new name matches the pattern, too
    first = append(log, b"before\n")
    host.start()
    host.settle()
    first += append(log, b"last before rename\n")
    log.rename(rotated)
    second = append(log, b"after\n")
    first += append(rotated, b"a writer that has not reopened\n")
    host.now_ns += SECOND
    host.changed(log, rotated)
    host.settle()
    host.run(120)
    first += append(rotated, b"and still writes two minutes later\n")
    host.run(20)
    sealed = host.verify()
    assert sealed.of(log) == [first, second]
    assert sealed.of(rotated) == []
    assert sealed.kinds() == ["start"]


def test_rotation_out_of_the_pattern_is_followed_through_several_names(host: Host) -> None:
    log = host.logs / "a.log"
    first = append(log, b"before\n")
    host.start()
    host.settle()
    log.rename(host.logs / "a.log.1")
    second = append(log, b"after\n")
    first += append(host.logs / "a.log.1", b"late\n")
    host.run(60)
    (host.logs / "a.log.1").rename(host.logs / "a.log.2")
    log.rename(host.logs / "a.log.1")
    first += append(host.logs / "a.log.2", b"later\n")
    host.run(60)
    (host.logs / "a.log.2").unlink()
    host.run(120)
    assert host.verify().of(log) == [first, second]
    assert host.verify().kinds() == ["start"]


def test_a_deleted_file_is_read_to_its_end_through_the_open_descriptor(host: Host) -> None:
    log = host.logs / "a.log"
    written = append(log, b"one\n")
    host.start()
    host.settle()
    with log.open("ab", buffering=0) as file:
        log.unlink()
        append(host.logs / "b.log", b"the directory is not empty\n")
        for part in (b"two\n", b"three\ntorn"):
            file.write(part)
            written += part
            host.run(15)
    host.run(60)
    sealed = host.verify()
    assert sealed.of(log) == [written]
    assert sealed.runs[-1].lines == 1
    assert [item.path for item in host.spool.load().positions] == [os.fsencode(host.logs / "b.log")]


def test_delete_and_recreate_are_two_generations(host: Host) -> None:
    log = host.logs / "a.log"
    first = append(log, b"one\n")
    host.start()
    host.settle()
    log.unlink()
    second = append(log, b"two\n")
    host.now_ns += SECOND
    host.changed(log)
    host.settle()
    host.run(60)
    assert host.verify().of(log) == [first, second]


@pytest.mark.parametrize("rest", [b"", b"short\n", b"a new beginning, longer than the old file was\n" * 9])
def test_copytruncate_begins_a_generation_and_leaves_an_event(host: Host, rest: bytes) -> None:
    log = host.logs / "a.log"
    first = append(log, b"one\ntwo\n")
    host.start()
    host.settle()
    log.write_bytes(rest)
    host.changed(log)
    host.settle()
    sealed = host.verify()
    assert sealed.of(log) == ([first, rest] if rest else [first])
    assert sealed.kinds() == ["start", "truncated"]
    assert Flags.LOSS not in sealed.headers[-1].flags
    assert host.spool.losses() == (0, 0)


def test_copytruncate_saves_the_unfinished_line_that_was_read(host: Host) -> None:
    log = host.logs / "a.log"
    first = append(log, b"one\nunfinished")
    host.start()
    host.settle()
    log.write_bytes(b"new\n")
    host.changed(log)
    host.settle()
    assert host.verify().of(log) == [first, b"new\n"]
    assert host.spool.losses() == (0, 0)


def test_a_directory_whose_watch_came_into_force_late_is_looked_into(host: Host) -> None:
    log = host.logs / "a.log"
    append(log, b"one\n")
    host.start()
    host.run(3)
    append(log, b"two\n")  # and no event tells: there was no watch yet
    host.changed(host.logs)
    host.run(1)
    assert host.verify().of(log) == [b"one\ntwo\n"]


def test_bytes_that_were_truncated_unread_are_counted_as_lost(host: Host) -> None:
    log = host.logs / "a.log"
    append(log, b"one\n")
    host.settings["seal"] = {"burst": 1, "max_delay": "1h"}
    host.start()
    host.settle()
    append(log, b"seen, but not read yet\n")
    host.changed(log)
    os.truncate(log, 0)
    host.changed(log)
    host.run(3700)
    sealed = host.verify()
    assert sealed.of(log) == [b"one\n"]
    assert host.spool.losses() == (23, 1)
    assert any(Flags.LOSS in header.flags for header in sealed.headers)
    assert sealed.events[-1]["lost_bytes"] == 23


@pytest.mark.parametrize("rest", [b"", b"2\n"])
def test_a_file_truncated_before_its_first_read_is_counted_as_lost(host: Host, rest: bytes) -> None:
    host.settings["seal"] = {"burst": 1, "max_delay": "1h"}
    append(host.logs / "other.log", b"this takes the only allowance\n")
    host.start()
    host.settle()
    log = host.logs / "a.log"
    append(log, b"seen, but never read\n")
    host.changed(log)
    host.run(20)
    log.write_bytes(rest)
    host.changed(log)
    host.run(3700)
    assert host.verify().of(log) == ([rest] if rest else [])
    assert host.spool.losses() == (21, 1)


def test_a_file_truncated_before_its_first_read_and_grown_past_it_is_counted_as_lost(host: Host) -> None:
    host.settings["seal"] = {"burst": 1, "max_delay": "1h"}
    append(host.logs / "other.log", b"this takes the only allowance\n")
    host.start()
    host.settle()
    log = host.logs / "a.log"
    for content in (b"seen, but never read\n", b"", b"more than was there before\n"):
        log.write_bytes(content)
        host.changed(log)
        host.run(20)
    host.run(3700)
    assert host.verify().of(log) == [b"more than was there before\n"]
    assert host.spool.losses() == (21, 1)


@pytest.mark.parametrize("extra", [-1, 0, 1, 2, RECORD_MAX_BYTES, 2 * RECORD_MAX_BYTES + 77])
@pytest.mark.parametrize("tail", [b"\nnext\n", b"\n", b""])
def test_over_long_lines_become_continued_pieces(host: Host, extra: int, tail: bytes) -> None:
    log = host.logs / "a.log"
    long = b"x" * (RECORD_MAX_BYTES + extra)
    written = append(log, b"first\n" + long + tail)
    host.start()
    host.settle()
    sealed = host.verify()
    if tail:
        assert sealed.of(log) == [written]
        assert all(run.size <= RECORD_MAX_BYTES for run in sealed.runs if run.lines == 1)
    else:
        (got,) = sealed.of(log)
        assert written.startswith(got)
        assert len(written) - len(got) < RECORD_MAX_BYTES
    pieces = [index for index, run in enumerate(sealed.runs) if run.more]
    assert len(pieces) == len(long) // RECORD_MAX_BYTES
    for index in pieces:
        assert sealed.runs[index].lines == 1
        if tail:
            assert sealed.runs[index + 1].lines == 1


def test_an_over_long_line_continues_over_a_restart(host: Host) -> None:
    log = host.logs / "a.log"
    written = append(log, b"x" * (RECORD_MAX_BYTES + 5))
    host.start()
    host.settle()
    host.restart()
    written += append(log, b"y\nz\n")
    host.changed(log)
    host.settle()
    sealed = host.verify()
    assert sealed.of(log) == [written]
    assert [(run.more, run.lines) for run in sealed.runs] == [(True, 1), (False, 1), (False, 1)]


def test_positions_survive_a_restart(host: Host) -> None:
    log = host.logs / "a.log"
    written = append(log, b"one\ntwo\nthr")
    host.start()
    host.settle()
    written += append(log, b"ee\nfour\n")
    host.restart()
    host.settle()
    sealed = host.verify()
    assert sealed.of(log) == [written]
    assert len(sealed.paths) == 1


def test_rotation_while_the_agent_is_down_is_followed(host: Host) -> None:
    log = host.logs / "a.log"
    first = append(log, b"one\n")
    host.start()
    host.stop()
    first += append(log, b"two\n")
    log.rename(host.logs / "a.log.1")
    second = append(log, b"three\n")
    host.restart()
    host.settle()
    sealed = host.verify()
    assert sealed.of(log) == [first, second]
    assert sealed.kinds() == ["start", "stop", "start"]


def test_a_file_gone_while_the_agent_is_down_leaves_an_event(host: Host) -> None:
    log = host.logs / "a.log"
    append(log, b"one\n")
    host.start()
    host.stop()
    log.unlink()
    append(host.logs / "other", b"")
    host.restart()
    host.settle()
    sealed = host.verify()
    assert sealed.kinds() == ["start", "stop", "start", "vanished"]
    assert host.spool.load().positions == ()


def test_an_unmounted_directory_is_waited_for(host: Host) -> None:
    log = host.logs / "a.log"
    written = append(log, b"one\n")
    host.start()
    host.stop()
    shutil.move(host.logs, host.root / "away")
    host.logs.mkdir()
    host.restart()
    host.run(60)
    assert host.engine.status(host.now()).state == "degraded"
    shutil.rmtree(host.logs)
    shutil.move(host.root / "away", host.logs)
    written += append(log, b"two\n")
    host.run(20)
    sealed = host.verify()
    assert sealed.of(log) == [written]
    assert "vanished" not in sealed.kinds()


def test_another_file_under_a_known_inode_is_not_continued(host: Host) -> None:
    log = host.logs / "a.log"
    first = append(log, b"a first file\n")
    host.start()
    host.stop()
    log.write_bytes(b"quite another file, and a longer one\n")  # what inode reuse looks like from outside
    host.restart()
    host.settle()
    sealed = host.verify()
    assert sealed.of(log) == [first, log.read_bytes()]
    assert sealed.kinds() == ["start", "stop", "start", "truncated"]


def test_files_with_a_long_common_beginning_are_told_apart(host: Host) -> None:
    same = b"# header that every file has\n" * 100
    first = append(host.logs / "a.log", same + b"a\n")
    host.start()
    host.settle()
    (host.logs / "a.log").rename(host.logs / "b.log")
    second = append(host.logs / "a.log", same + b"b\n")
    host.run(20)
    assert host.verify().of(host.logs / "a.log") == [first, second]


def test_paths_that_are_not_utf8_and_empty_files(host: Host) -> None:
    log = Path(os.fsdecode(os.fsencode(host.logs) + b"/\xff\xfe.log"))
    (host.logs / "empty.log").touch()
    written = append(log, b"\0\xff\n\n\n")
    host.start()
    host.settle()
    sealed = host.verify()
    assert sealed.of(log) == [written]
    assert list(sealed.files.values()) == [written]


def test_excluded_files_and_second_names_are_not_read(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.settings["sources"] = [
        {"stream": "app", "paths": [str(host.logs / "*.log")], "exclude": ["b*", str(host.logs / "c.log")]},
        {"stream": "rest", "paths": [str(host.logs / "*")], "labels": {"k": "v"}},
    ]
    for name in ("a.log", "b.log", "c.log"):
        append(host.logs / name, name.encode() + b"\n")
    os.link(host.logs / "a.log", host.logs / "d.log")
    (host.logs / "e.log").symlink_to(host.logs / "a.log")
    os.mkfifo(host.logs / "f.log")
    host.start()
    host.settle()
    sealed = host.verify()
    assert sorted(sealed.files.values()) == [b"a.log\n", b"b.log\n", b"c.log\n"]
    assert {(run.stream, run.path[-5:], tuple(run.labels)) for run in sealed.runs} == {
        ("app", b"a.log", ()), ("rest", b"b.log", ("k",)), ("rest", b"c.log", ("k",)),
    }  # fmt: skip


def test_many_files_are_read_fairly_with_few_descriptors(host: Host) -> None:
    host.start()
    host.engine._tailer._max_open = 4
    ledger = {}
    for i in range(30):
        log = host.logs / f"{i}.log"
        ledger[log] = append(log, b"%d\n" % i * (i + 1) * 50)
    host.run(15)
    for log in ledger:
        ledger[log] += append(log, b"more\n")
    host.run(15)
    assert len(host.engine._tailer._open) <= 4
    sealed = host.verify()
    for log, written in ledger.items():
        assert sealed.of(log) == [written]


def test_a_thousand_files_that_end_at_once_become_several_blocks(tmp_path: Path) -> None:
    disk = FakeDisk()
    host = Host(tmp_path, disk)
    deep = os.fsencode(host.logs) + b"/" + b"\x01" * 3000
    host.settings["sources"] = [
        {
            "stream": "app",
            "paths": [os.fsdecode(deep) + "*"],
            "labels": {f"k{i}": "\x01" * 1024 for i in range(20)},
        }
    ]
    inodes = [disk.create(deep + b"%d" % i) for i in range(300)]
    for inode in inodes:
        disk.append(inode, b"line\ntorn")
    host.start()
    host.settle()
    for inode in inodes:
        disk.truncate(inode)
    host.run(30)
    sealed = host.verify()
    assert sorted(sealed.files.values()) == [b"line\ntorn"] * 300
    assert sealed.kinds().count("truncated") == 300
    assert len(sealed.headers) > 20
    assert host.spool.losses() == (0, 0)


def test_a_large_file_does_not_starve_a_small_one(host: Host) -> None:
    large = append(host.logs / "a.log", b"z" * 99 + b"\n")
    large += append(host.logs / "a.log", (b"y" * 99 + b"\n") * 60_000)
    small = append(host.logs / "b.log", b"small\n")
    host.start()
    host.step()
    sealed = host.verify()
    assert sealed.of(host.logs / "b.log") == [small]
    host.settle()
    assert host.verify().of(host.logs / "a.log") == [large]
    kinds = [header.kind for header in host.verify().headers]
    assert kinds.count(BlockKind.RECORDS) < 10
