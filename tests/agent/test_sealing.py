"""What a chain looks like: keys, flags, slots, timing, pauses."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from duramen.chain import DataKeyUse
from duramen.envelope import parse_key_list
from duramen.errors import ConfigurationError, IntegrityError, StorageError, UsageError
from duramen.names import Seq
from duramen.ports import Disk
from duramen.ratchet import Ratchet, parse_seed_file, verify_heartbeat
from duramen.statement import BlockKind, Flags
from duramen_agent.effects import HttpFailure, HttpResponse
from duramen_agent.engine import IDLE_NS, RESERVE_BYTES
from duramen_agent.spool import SpoolFull
from duramen_agent.step import PathsChanged
from tests.agent.fake_disk import FakeDisk
from tests.agent.rig import READER, SECOND, Host, append, read_back


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def kinds(host: Host) -> list[str]:
    return [
        {BlockKind.GENESIS: "genesis", BlockKind.KEYS: "keys", BlockKind.RECORDS: f"records {header.count}"}[
            header.kind
        ]
        for header in host.verify().headers
    ]


def seed(host: Host) -> int:
    return parse_seed_file((host.state_dir / "seed").read_bytes()).index


def test_start_and_stop_frame_the_chain(host: Host) -> None:
    append(host.logs / "a.log", b"one\ntwo\n")
    host.start()
    host.settle()
    assert host.stop().stopped
    assert kinds(host) == ["genesis", "keys", "records 1", "records 2", "records 1"]
    sealed = host.verify()
    assert sealed.state.stopped
    assert [header.flags for header in sealed.headers] == [Flags.NONE] * 4 + [Flags.STOP]
    assert [item["event"] for item in sealed.events] == ["start", "stop"]
    assert seed(host) == 5
    host.restart()
    assert sealed.headers[-1].seq + 1 == host.verify().headers[5].seq
    assert [header.flags for header in host.verify().headers[5:]] == [Flags.NONE, Flags.NONE]


def test_a_start_after_a_crash_says_so_once(host: Host) -> None:
    host.start()
    host.restart()
    headers = host.verify().headers
    assert [header.flags for header in headers] == [Flags.NONE] * 3 + [Flags.CRASH, Flags.NONE]
    assert headers[3].kind is BlockKind.KEYS
    assert headers[1].dek != headers[3].dek
    assert host.verify().events[-1]["after"] == "crash"


def test_a_changed_configuration_is_flagged_once(host: Host) -> None:
    host.start()
    host.stop()
    host.settings["heartbeat"] = "20s"
    host.restart()
    assert Flags.CONFIGURATION in host.verify().headers[-1].flags
    host.stop()
    host.restart()
    assert Flags.CONFIGURATION not in host.verify().headers[-1].flags
    host.settings["agent"] = "other"
    with pytest.raises(ConfigurationError, match="is enrolled as acme/web-1"):
        host.restart()


def test_one_block_for_each_group_and_class_with_stable_numbers(host: Host) -> None:
    def source(name: str, **more: object) -> dict[str, object]:
        return {"stream": name, "paths": [str(host.logs / name)], **more}

    host.settings["sources"] = [
        source("a"),
        source("b", shred_group="customers"),
        source("c", shred_group="customers", retention_class=1),
        source("d", shred_group="staff"),
    ]
    for name in "ad":
        append(host.logs / name, b"x\n")
    host.start()
    host.settle()
    first = {header.group for header in host.verify().headers if header.count}
    assert first == {0, 2}
    host.settings["sources"] = [
        source("b", shred_group="customers"),
        source("d", shred_group="staff"),
        source("c", shred_group="new"),
    ]
    for name in "bcd":
        append(host.logs / name, b"y\n")
    host.restart()
    host.settle()
    names = {}
    for block in host.spool.blocks(0, 2**40, 1000):
        if block.header_bytes[1] == BlockKind.KEYS:
            listing = parse_key_list(block.body)
            assert names.setdefault(listing.group, listing.group_name) == listing.group_name
    assert names[0] == "default"
    assert names[2] == "staff"
    assert sorted(names.values()) == ["customers", "default", "new", "staff"]
    streams = {run.stream: bytes(run.path[-1:]) for run in host.verify().runs}
    assert streams == {"a": b"a", "b": b"b", "c": b"c", "d": b"d"}


def test_data_keys_end_after_a_day_and_on_new_recipients(host: Host) -> None:
    log = host.logs / "a.log"
    written = append(log, b"0\n")
    host.start()
    host.run(20 * 3600)
    written += append(log, b"1\n")
    host.run(20)
    written += append(log, b"2\n")
    host.run(5 * 3600)
    written += append(log, b"3\n")
    host.run(20)
    host.engine._sealer.set_recipients([READER.recipient])
    written += append(log, b"4\n")
    host.run(20)
    sealed = host.verify()
    assert sealed.of(log) == [written]
    assert len([header for header in sealed.headers if header.kind is BlockKind.KEYS]) == 3
    with pytest.raises(ConfigurationError, match="no recipient"):
        host.engine._sealer.set_recipients([])


def test_a_data_key_that_used_its_steps_is_replaced(host: Host) -> None:
    host.start()
    sealer = host.engine._sealer
    ((slot, ratchet),) = sealer._data_keys.items()
    use = sealer._state.keys[0, 0]
    sealer._data_keys[slot] = replace(ratchet, step=65_535)
    sealer._state = replace(sealer._state, keys={(0, 0): DataKeyUse(use.dek, 65_535, use.since_ns)})
    assert sealer._key_due(slot, host.now())


def test_an_isolated_line_is_sealed_at_once_and_a_trickle_at_a_bounded_rate(host: Host) -> None:
    host.settings["seal"] = {"burst": 5, "max_delay": "10s"}
    log = host.logs / "a.log"
    log.touch()
    host.start()
    host.settle()
    waits = []
    for i in range(200):
        append(log, b"%d\n" % i)
        records = host.engine._sealer.state.records
        at = host.now_ns
        host.changed(log)
        host.settle()
        while host.engine._sealer.state.records == records:
            assert host.last.deadline_ns > host.now_ns
            host.now_ns = host.last.deadline_ns
            host.settle()
        waits.append(host.now_ns - at)
        host.now_ns += SECOND
    assert waits[:5] == [0] * 5
    assert max(waits) <= 10 * SECOND
    blocks = len([header for header in host.verify().headers if header.count]) - 1
    assert blocks <= 5 + host.now_ns // (10 * SECOND)
    assert host.verify().of(log) == [b"".join(b"%d\n" % i for i in range(200))]


def test_a_busy_file_is_sealed_by_size_without_using_the_allowance(host: Host) -> None:
    host.settings["seal"] = {"burst": 1, "max_delay": "1h"}
    log = host.logs / "a.log"
    written = append(log, b"first\n")
    host.start()
    host.settle()
    for _ in range(3):
        written += append(log, (b"y" * 99 + b"\n") * 11_000)
        host.changed(log)
        host.settle()
    assert len(host.verify().of(log)[0]) >= len(written) - 1024 * 1024
    host.run(3601)
    assert host.verify().of(log) == [written]


def test_an_idle_agent_sleeps_and_seals_an_empty_block_every_quarter_of_an_hour(host: Host) -> None:
    append(host.logs / "a.log", b"x\n")
    host.start()
    host.settle()
    steps = host.run(3600)
    assert steps <= 3600 // 10 + 10
    headers = host.verify().headers
    empty = [header for header in headers[1:] if header.kind is BlockKind.RECORDS and not header.count]
    assert len(empty) == 4
    assert empty[1].sealed_ns - empty[0].sealed_ns >= IDLE_NS


def test_a_heartbeat_is_signed_with_the_next_block_s_key(host: Host) -> None:
    host.start()
    nonce = b"n" * 32
    seq, head, signature = host.engine._sealer.heartbeat(nonce)
    state = host.verify().state
    assert (seq, head) == (state.seq + 1, state.head)
    verify_heartbeat(state.next_public, state.chain, seq, head, nonce, signature)


def test_the_next_block_testifies_about_the_checkpoint_seen_last(host: Host) -> None:
    host.start()
    host.spool.mark_published(1, 7, b"R" * 32, b"note", 10**18, 0)
    host.step(HttpResponse(1, 200, {}, b""), HttpFailure(2, "no"))
    append(host.logs / "a.log", b"x\n")
    host.run(11)
    assert (host.verify().headers[-1].seen_size, host.verify().headers[-1].seen_root) == (7, b"R" * 32)
    assert len(host.forwarder.responses) == 1
    host.restart()
    assert host.verify().headers[-1].seen_size == 7


def test_blocks_kept_back_are_deleted_when_their_time_comes(host: Host) -> None:
    host.settings["receipts"] = {"keep": "10m"}
    host.start()
    host.spool.mark_published(2, 7, b"R" * 32, b"", 600 * SECOND, host.now().wall_ns)
    host.run(540)
    assert host.spool.load().first_seq == 0
    host.run(130)
    assert host.spool.load().first_seq == 3


def test_a_full_spool_stops_reading_and_resumes_by_itself(host: Host) -> None:
    host.settings["spool"] = {"min_free_bytes": 0, "max_bytes": 24 * 2**20}
    log = host.logs / "a.log"
    written = append(log, os.urandom(12 * 2**20).replace(b"\n", b"x") + b"\n")
    host.start()
    host.settle()
    for _ in range(8):
        written += append(log, os.urandom(2**20 - 1).replace(b"\n", b"x") + b"\n")
        host.changed(log)
        host.run(1)
    status = host.engine.status(host.now())
    assert status.state == "degraded"
    assert "spool.max_bytes" in status.reasons[0]
    assert host.spool.usage().bytes <= 24 * 2**20
    assert host.last.deadline_ns > host.now_ns
    kept = {item.seq: item for item in host.spool.blocks(0, 2**40, 1000)}
    before = read_back(host.spool)
    host.spool.mark_published(host.engine._sealer.state.seq, 9, b"r" * 32, b"", 0, 0)
    host.run(5)
    assert host.engine.status(host.now()).state == "ok"
    for item in host.spool.blocks(0, 2**40, 1000):
        kept[item.seq] = item
    host.spool.blocks = lambda *_: list(kept.values())  # what a collector would hold
    sealed = read_back(host.spool)
    assert sealed.of(log) == [written]
    assert len(before.of(log)[0]) < len(written)
    assert sealed.kinds()[-1] == "paused"


def test_the_last_free_bytes_stay_free(tmp_path: Path) -> None:
    disk = FakeDisk()
    host = Host(tmp_path, disk, spool={"min_free_bytes": "512MiB"})
    log = os.fsencode(host.logs / "a.log")
    inode = disk.create(log)
    disk.append(inode, b"one\n")
    disk.free = 512 * 2**20 + RESERVE_BYTES - 1
    host.start()
    host.run(30)
    assert len(host.verify().headers) == 1
    assert "spool.min_free_bytes" in host.engine.status(host.now()).reasons[0]
    disk.free += 2 * RESERVE_BYTES
    host.run(5)
    sealed = host.verify()
    assert list(sealed.files.values()) == [b"one\n"]
    assert sealed.kinds() == ["start", "paused"]
    disk.fail = lambda operation, _: errno.EIO if operation == "free_bytes" else None
    host.run(5)
    assert "cannot be told" in host.engine.status(host.now()).reasons[0]
    assert host.engine.status(host.now()).spool.disk_free_bytes == 0
    assert host.stop().stopped
    assert not host.verify().state.stopped


def test_unlinked_files_are_held_within_their_limit_while_reading_is_stopped(tmp_path: Path) -> None:
    disk = FakeDisk()
    host = Host(tmp_path, disk, spool={"min_free_bytes": 0, "hold_bytes": 100})
    disk.create(os.fsencode(host.logs / "other"))
    host.start()
    disk.free = 0
    for i in range(4):
        path = os.fsencode(host.logs / "a.log")
        inode = disk.create(path)
        disk.append(inode, b"%d" % i * 39 + b"\n")
        host.step(PathsChanged(frozenset({path})))
        host.run(1)
        disk.unlink(path)
        host.step(PathsChanged(frozenset({path})))
        host.run(1)
    disk.free = 10**12
    host.run(100)
    sealed = host.verify()
    assert list(sealed.files.values()) == [b"2" * 39 + b"\n", b"3" * 39 + b"\n"]
    assert sealed.kinds().count("dropped") == 2
    assert host.spool.losses() == (80, 2)
    assert host.engine.status(host.now()).losses.bytes == 80


class FailingSpool:
    """Fails the n-th append, before or after it took effect."""

    def __init__(self, host: Host, at: int, error: Exception) -> None:
        self.real, self.left, self.error = host.spool.append, at, error
        host.spool.append = self

    def __call__(self, *args: object, **named: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error
        self.real(*args, **named)


@pytest.mark.parametrize("at", range(1, 7))
def test_a_disk_that_is_full_in_the_middle_loses_nothing(host: Host, at: int) -> None:
    host.settings["sources"] = [
        {"stream": "app", "paths": [str(host.logs / "a.log")]},
        {"stream": "b", "paths": [str(host.logs / "b.log")], "shred_group": "g"},
    ]
    ledger = {host.logs / name: append(host.logs / name, b"one\ntorn") for name in ("a.log", "b.log")}
    FailingSpool(host, at, SpoolFull("full"))
    host.start()
    host.run(5)
    for path in ledger:
        ledger[path] += append(path, b"end\n")
    host.run(20)
    sealed = host.verify()
    for path, written in ledger.items():
        assert sealed.of(path) == [written]
    assert sorted(sealed.kinds()) == ["paused", "start"]


def test_other_storage_errors_end_the_process_and_a_restart_continues(host: Host) -> None:
    log = host.logs / "a.log"
    written = append(log, b"one\n")
    FailingSpool(host, 3, StorageError("io"))
    with pytest.raises(StorageError):
        host.start()
    host.restart()
    host.settle()
    assert host.verify().of(log) == [written]


def test_a_seed_that_cannot_be_written_stops_sealing_until_it_can(tmp_path: Path) -> None:
    disk = FakeDisk()
    host = Host(tmp_path, disk)
    log = os.fsencode(host.logs / "a.log")
    inode = disk.create(log)
    disk.append(inode, b"one\n")
    disk.fail = lambda operation, _: errno.ENOSPC if operation == "overwrite" else None
    host.start()
    host.run(20)
    assert len(host.verify().headers) == 2
    assert any("seed file" in reason for reason in host.engine.status(host.now()).reasons)
    disk.fail = lambda operation, _: None
    host.run(20)
    assert list(host.verify().files.values()) == [b"one\n"]
    assert host.engine.status(host.now()).state == "ok"


def test_a_rolled_back_spool_is_refused_loudly(host: Host) -> None:
    host.start()
    host.stop()
    host.spool.close()
    old = (host.state_dir / "spool.db").read_bytes()
    host.restart()
    host.stop()
    host.spool.close()
    (host.state_dir / "spool.db").write_bytes(old)
    host.spool = host.open_spool()
    with pytest.raises(IntegrityError, match="the spool was rolled back") as caught:
        host.start()
    assert (caught.value.code, caught.value.exit_code) == ("rollback", 2)


def test_a_foreign_damaged_or_missing_seed_is_refused(host: Host, tmp_path: Path) -> None:
    path = host.state_dir / "seed"
    good = path.read_bytes()
    other_root = tmp_path / "other"
    other_root.mkdir()
    other = Host(other_root)
    other.random.count = 1000
    path.write_bytes(Ratchet(Seq(1), b"f" * 32).encode())
    with pytest.raises(IntegrityError, match="not the one of this chain"):
        host.start()
    path.write_bytes(good[:20] + bytes([good[20] ^ 1]) + good[21:])
    with pytest.raises(StorageError, match="checksum"):
        host.start()
    path.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        host.start()
    with pytest.raises(UsageError, match="enrolled already"):
        host.enrol()


def test_an_agent_that_is_not_enrolled_says_so(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.spool.load = lambda: None
    with pytest.raises(ConfigurationError, match="run duramen-agent enroll"):
        host.start()


def test_status_shows_sources_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    disk: FakeDisk = FakeDisk()
    host = Host(tmp_path, disk)
    log = os.fsencode(host.logs / "a.log")
    host.start()
    status = host.engine.status(host.now())
    assert (status.state, [(item.state, item.file) for item in status.sources]) == (
        "ok",
        [("no file matches yet", None)],
    )
    disk.append(disk.create(log), b"one\ntw")
    disk.fail = lambda operation, path: errno.EACCES if operation == "open" and path == log else None
    host.run(11)
    status = host.engine.status(host.now())
    assert status.state == "degraded"
    assert status.sources[0].state == "permission denied"
    assert status.reasons == [f"{host.logs / 'a.log'}: permission denied"]
    disk.fail = lambda operation, path: None
    host.run(11)
    status = host.engine.status(host.now())
    assert (status.state, status.sources[0].offset, status.sources[0].behind_bytes) == ("ok", 4, 2)
    assert status.head.records == 2
    assert status.spool.blocks == 4
    host.forwarder.critical = "fork"
    assert host.engine.status(host.now()).state == "critical"


def test_watches_name_the_fixed_part_of_each_pattern(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.settings["sources"] = [
        {"stream": "a", "paths": ["/var/log/nginx/access.log", "/srv/*/log/*.log", "/opt/**/x.log", "/*.log"]}
    ]
    host.start()
    assert {(item.directory, item.recursive) for item in host.engine.watches} == {
        (b"/var/log/nginx", False), (b"/srv", True), (b"/opt", True), (b"/", False),
    }  # fmt: skip


def _disks_are_ports(disk: FakeDisk) -> Disk:
    return disk
