"""The ``duramen`` command line, in process; and a few times as a process without any network."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from duramen import keyfile
from duramen.checkpoint import Checkpoint, cosign, mldsa44_public_from_seed
from duramen.cli import main
from duramen.envelope import ReaderKey
from duramen.errors import StorageError, UsageError
from duramen.merkle import CompactRange, leaf_hash
from duramen.note import KeyKind, Note, NoteSigner, VerifierKey
from duramen.readers import DirectoryReader
from duramen.region import envelope_key
from duramen.tiles import grow, grow_entries
from tests.core.builder import LogBuilder, Source

ROOT = Path(__file__).resolve().parents[2]
LINES = b"".join(b"line %d\n" % number for number in range(50))
SPLIT = 123


@pytest.fixture(scope="module")
def made():
    """A log with a file in two blocks, a torn file, an odd path and a second agent."""
    log = LogBuilder(4)
    web, db = log.agent("web-1"), log.agent("db-1")
    web.seal([Source("app", b"/var/log/app.log", LINES[:SPLIT])])
    db.seal([Source("pg", b"/var/log/pg.log", b"only\n")])
    log.publish()
    web.seal(
        [
            Source("app", b"/var/log/app.log", LINES[SPLIT:], SPLIT),
            Source("torn", b"/var/log/../torn\xff", b"no line feed"),
            Source("unit", b"", b"from a journal\n"),
        ]
    )
    log.publish()
    return log


@pytest.fixture
def site(made, tmp_path, monkeypatch):
    """Files as a person has them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for key, data in made.objects.items():
        path = tmp_path / "region" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "vkeys").write_text("\n".join(made.vkeys))
    (tmp_path / "pw").write_text("secret\n")
    sealed = keyfile.seal_private(made.readers[0], "secret", bytes(16), bytes(12), n=2)
    (tmp_path / "reader.key").write_bytes(sealed)
    return tmp_path


ACCESS = ["--region", "region", "--tenant", "acme", "--vkey", "@vkeys"]
READER = [*ACCESS, "--key", "reader.key", "--passphrase-file", "pw"]


def call(capfd, *argv):
    code = main([str(item) for item in argv])
    out, err = capfd.readouterr()
    return code, out, err


def call_json(capfd, *argv):
    code, out, err = call(capfd, *argv, "--json")
    assert err == ""
    return code, json.loads(out)


# ---------------------------------------------------------------- keys


def test_new_key_and_show(site, capfd):
    code, value = call_json(capfd, "keys", "new", "alice", "--passphrase-file", "pw")
    assert code == 0
    assert (site / "alice.key").stat().st_mode & 0o777 == 0o600
    assert (site / "alice.pub").read_text().strip() == value["recipient"]
    key = keyfile.open_private((site / "alice.key").read_bytes(), "secret")
    assert key.recipient.key_hash.hex() == value["key"]
    for name in ("alice.key", "alice.pub"):
        code, shown = call_json(capfd, "keys", "show", name, "--passphrase-file", "pw")
        assert (code, shown[0]["recipient"], shown[0]["name"]) == (0, value["recipient"], "alice")
    code, out, _ = call(capfd, "keys", "show", "alice.pub")
    assert code == 0
    assert value["recipient"] in out
    code, out, _ = call(capfd, "keys", "new", "bob", "--passphrase-file", "pw")
    assert code == 0
    assert "duramen-reader bob " in out


def test_keys_are_not_overwritten_and_names_are_names(site, capfd):
    (site / "alice.pub").write_text("mine")
    assert call(capfd, "keys", "new", "alice", "--passphrase-file", "pw")[0] == 64
    assert call(capfd, "keys", "new", "../x", "--passphrase-file", "pw")[0] == 64
    assert not (site / "alice.key").exists()
    assert call(capfd, "keys", "new", "carol", "--output", "nowhere", "--passphrase-file", "pw")[0] == 78
    (site / "empty").write_text("")
    assert call(capfd, "keys", "new", "carol", "--passphrase-file", "empty")[0] == 64


def test_wrong_passphrase_and_foreign_files(site, capfd):
    (site / "wrong").write_text("other")
    code, _, err = call(capfd, "keys", "show", "reader.key", "--passphrase-file", "wrong")
    assert code == 78
    assert "passphrase" in err
    (site / "junk").write_bytes(b"{}")
    assert call(capfd, "keys", "show", "junk", "--passphrase-file", "pw")[0] == 78
    (site / "junk").write_bytes(b"\xff\xfe")
    assert call(capfd, "keys", "show", "junk")[0] == 78
    (site / "junk").write_bytes(bytes(2_000_000))
    assert call(capfd, "keys", "show", "junk")[0] == 78
    (site / "binary").write_bytes(b"\xff")
    assert call(capfd, "keys", "show", "reader.key", "--passphrase-file", "binary")[0] == 78


# ---------------------------------------------------------------- export


def test_export_gives_back_the_files(site, capfd):
    code, value = call_json(capfd, "export", *READER, "--output", "out")
    assert code == 0
    assert value["verdict"] == "verified"
    assert (site / "out/web-1/var/log/app.log").read_bytes() == LINES
    assert (site / "out/db-1/var/log/pg.log").read_bytes() == b"only\n"
    assert (site / "out/web-1/_streams/unit").read_bytes() == b"from a journal\n"
    odd = os.fsencode(site) + b"/out/web-1/var/log/%2E%2E/torn\xff"
    assert Path(os.fsdecode(odd)).read_bytes() == b"no line feed"
    assert {item["path"] for item in value["files"]} >= {"/var/log/app.log", "/var/log/../torn\\xff"}
    assert all(not item["holes"] for item in value["files"])
    assert len([path for path in (site / "out").rglob("*") if path.is_file()]) == 4


def test_export_of_a_selection(site, capfd):
    options = ("--agent", "web-1", "--stream", "app", "--path", "/var/log/app.log")
    code, out, _ = call(capfd, "export", *READER, "--output", "out", *options)
    assert code == 0
    assert "verified: 1 files" in out
    assert [path for path in (site / "out").rglob("*") if path.is_file()] == [
        site / "out/web-1/var/log/app.log"
    ]


def test_export_with_a_damaged_pack_writes_only_what_is_proven(site, made, capfd):
    pack = site / "region" / made.packs[-1]
    data = bytearray(pack.read_bytes())
    data[-5] ^= 1
    pack.write_bytes(data)
    code, out, _ = call(capfd, "export", *READER, "--output", "out")
    assert code == 2
    assert "body_corrupt" in out
    assert (site / "out/web-1/var/log/app.log").read_bytes() == LINES[:SPLIT]


def test_export_reports_holes(site, made, capfd):
    pack = site / "region" / made.packs[0]
    data = pack.read_bytes()
    leaf = made.agents["web-1"].blocks[2]
    body = data.index(leaf.entry) + len(leaf.entry) + 4
    pack.write_bytes(data[:body] + b"\0" + data[body + 1 :])
    code, value = call_json(
        capfd, "export", *READER, "--output", "out", "--agent", "web-1", "--stream", "app"
    )
    assert code == 2
    (item,) = value["files"]
    assert item["holes"] == [{"offset": 0, "bytes": SPLIT}]
    assert item["output"].endswith("app.log.incomplete")
    assert (site / item["output"]).read_bytes() == LINES[SPLIT:]
    code, out, _ = call(capfd, "export", *READER, "--output", "out2", "--agent", "web-1", "--stream", "app")
    assert code == 2
    assert f"hole: {SPLIT} bytes from 0" in out


def test_export_where_tiles_and_packs_are_gone_proves_each_block(site, made, capfd):
    """Neither bundle nor pack tell the first entries: the others are proven one by one."""
    (site / "region" / made.packs[0]).unlink()
    (site / f"region/acme/tile/entries/000.p/{made.size}").unlink()
    code, value = call_json(capfd, "export", *READER, "--output", "out")
    assert code == 2
    assert value["files"] == []
    shutil.copytree(site / "region", site / "other")
    tile = site / f"region/acme/tile/0/000.p/{made.size}"
    tile.unlink()
    code, value = call_json(capfd, "export", *READER, "--output", "out2")
    assert code == 2
    assert value["files"] == []


def test_export_of_a_log_that_cannot_be_read_whole(site, capfd):
    """The last bundle and its packs are gone: the rest is proven leaf by leaf, where tiles allow it."""
    log = LogBuilder(4)
    agent = log.agent("a")
    agent.seal([Source("s", b"/f", b"one\n")])
    log.publish()
    for _ in range(260):
        agent.idle()
    log.publish()
    shutil.rmtree(site / "region")
    for key, data in log.objects.items():
        (site / "region" / key).parent.mkdir(parents=True, exist_ok=True)
        (site / "region" / key).write_bytes(data)
    (site / "region" / log.packs[-1]).unlink()
    (site / f"region/acme/tile/entries/001.p/{log.size - 256}").unlink()
    code, value = call_json(capfd, "export", *READER, "--output", "out")
    assert code == 2
    assert (site / "out/a/f").read_bytes() == b"one\n"
    assert value["unproven_blocks"] == 0
    (site / f"region/acme/tile/0/001.p/{log.size - 256}").unlink()
    code, value = call_json(capfd, "export", *READER, "--output", "out2")
    assert (code, value["files"], value["unproven_blocks"]) == (2, [], 1)
    code, out, _ = call(capfd, "export", *READER, "--output", "out3")
    assert code == 2
    assert "1 blocks could not be proven" in out


def test_export_without_the_right_reader_key(site, capfd):
    other = keyfile.seal_private(ReaderKey(bytes(32)), "secret", bytes(16), bytes(12), n=2)
    (site / "reader.key").write_bytes(other)
    code, out, _ = call(capfd, "export", *READER, "--output", "out")
    assert code == 1
    assert "3 blocks are not sealed to this reader key" in out
    assert list((site / "out").iterdir()) == []


def test_export_refuses_a_directory_in_use(site, capfd):
    (site / "out").mkdir()
    (site / "out/mine").write_text("x")
    code, _, err = call(capfd, "export", *READER, "--output", "out")
    assert code == 64
    assert "not empty" in err
    assert call(capfd, "export", *READER, "--output", "out/mine/x")[0] == 78


def test_generations_of_one_path_and_overlaps(site, capfd):
    log = LogBuilder(4)
    agent = log.agent("a")
    agent.seal([Source("s", b"/f", b"one\n", file="1")])
    agent.seal([Source("s", b"/f", b"two\n", file="2")])
    agent.seal([Source("s", b"/f", b"e\nTWO\n", offset=2, file="1")])
    agent.seal([Source("s", b"/f", b"o\n", offset=2, file="2")])
    log.publish()
    shutil.rmtree(site / "region")
    for key, data in log.objects.items():
        (site / "region" / key).parent.mkdir(parents=True, exist_ok=True)
        (site / "region" / key).write_bytes(data)
    code, value = call_json(capfd, "export", *READER, "--output", "out")
    assert code == 0
    assert (site / "out/a/f~1").read_bytes() == b"one\nTWO\n"
    assert (site / "out/a/f~2").read_bytes() == b"two\n"
    assert [item["sealed_twice"] for item in value["files"]] == [2, 2]


def test_names_that_collide_or_would_hurt_a_terminal(site, capfd):
    log = LogBuilder(4)
    agent = log.agent("a")
    for number, path in enumerate((b"/f", b"/f", b"/f~1", b"/d", b"/d/x", b"/\x1b[31m\n")):
        agent.seal([Source("s\x1b", path, b"%d\n" % number, file=str(number))])
    log.publish()
    shutil.rmtree(site / "region")
    for key, data in log.objects.items():
        (site / "region" / key).parent.mkdir(parents=True, exist_ok=True)
        (site / "region" / key).write_bytes(data)
    code, out, _ = call(capfd, "export", *READER, "--output", "out")
    assert code == 0
    assert "\x1b" not in out
    found = {path.name: path.read_bytes() for path in (site / "out/a").iterdir() if path.is_file()}
    assert found == {
        "f~1": b"0\n",
        "f~2": b"1\n",
        "f~1~1": b"2\n",
        "d~1": b"3\n",
        "\x1b[31m\n": b"5\n",
    }
    assert (site / "out/a/d/x").read_bytes() == b"4\n"
    assert call(capfd, "prove", *READER, "--agent", "a", "--seq", "7", "--output", "b.zip")[0] == 0
    code, out, _ = call(capfd, "verify", "b.zip", "--vkey", "@vkeys")
    assert code == 0
    assert "\x1b" not in out


def test_export_and_evidence(site, capfd):
    code, _, err = call(capfd, "export", *READER, "--output", "out", "--evidence", "e.zip")
    assert code == 64
    assert "--agent" in err
    code, *_ = call(capfd, "export", *READER, "--output", "out", "--agent", "web-1", "--evidence", "e.zip")
    assert code == 0
    code, value = call_json(capfd, "verify", "e.zip", "--vkey", "@vkeys")
    assert (code, value["lineage"], len(value["blocks"])) == (0, "whole", 4)


# ---------------------------------------------------------------- prove and verify


def test_prove_and_verify(site, made, capfd):
    code, value = call_json(capfd, "prove", *READER, "--agent", "web-1", "--seq", "2-3", "--output", "b.zip")
    assert code == 0
    assert value["chain"] == made.agents["web-1"].state.chain.hex()
    first, second = made.vkeys
    code, out, _ = call(capfd, "verify", "b.zip", "--vkey", first, "--vkey", second)
    assert code == 0
    assert "bytes 0 to 122" in out
    assert "not proven:" in out
    assert "/var/log/app.log" in out
    code, out, _ = call(capfd, "verify", "b.zip", "--vkey", "@vkeys", "--show")
    assert out.encode() == LINES + b"no line feed" + b"from a journal\n"
    code, value = call_json(capfd, "verify", "b.zip", "--vkey", "@vkeys", "--genesis", value["chain"])
    assert code == 0
    assert value["genesis_pinned"]
    assert value["verdict"] == "verified"
    assert value["blocks"][0]["statement"]["seq"] == 2
    code, *_ = call(
        capfd, "prove", *READER, "--chain", value["chain"], "--seq", "0", "--output", "c.zip", "--lineage"
    )
    assert code == 0
    code, out, _ = call(capfd, "verify", "c.zip", "--vkey", "@vkeys")
    assert code == 0
    assert "names agent 'web-1'" in out
    (site / "policy").write_text("quorum none\n")
    code, *_ = call(
        capfd, "prove", *READER, "--agent", "db-1", "--seq", "2", "--output", "d.zip", "--policy", "policy"
    )
    assert code == 0
    assert call(capfd, "verify", "d.zip", "--vkey", "@vkeys", "--policy", "policy")[0] == 0


def test_verify_says_what_does_not_hold(site, capfd):
    assert call(capfd, "prove", *READER, "--agent", "web-1", "--seq", "2", "--output", "b.zip")[0] == 0
    data = (site / "b.zip").read_bytes()
    (site / "bad.zip").write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
    code, out, err = call(capfd, "verify", "bad.zip", "--vkey", "@vkeys")
    assert code == 2
    assert "NOT PROVEN" in err
    assert out == ""
    code, value = call_json(capfd, "verify", "bad.zip", "--vkey", "@vkeys")
    assert code == 2
    assert value["verdict"] == "failed"
    (site / "others").write_text("\n".join(LogBuilder(9).vkeys))
    code, value = call_json(capfd, "verify", "b.zip", "--vkey", "@others")
    assert (code, value["code"]) == (2, "checkpoint_invalid")
    assert call(capfd, "verify", "b.zip", "--vkey", "@vkeys", "--genesis", "00" * 32)[0] == 2


def test_wrong_usage(site, made, capfd):
    assert call(capfd, "prove", *READER, "--seq", "2", "--output", "b.zip")[0] == 64
    for seq in ("x", "3-", "5-2", "1-99999999999999999999"):
        assert call(capfd, "prove", *READER, "--agent", "web-1", "--seq", seq, "--output", "b.zip")[0] == 64
    code, _, err = call(capfd, "prove", *READER, "--agent", "nobody", "--seq", "2", "--output", "b.zip")
    assert code == 64
    assert "db-1, web-1" in err
    assert call(capfd, "prove", *READER, "--chain", "zz", "--seq", "2", "--output", "b.zip")[0] == 64
    (site / "there").write_text("x")
    assert call(capfd, "prove", *READER, "--agent", "web-1", "--seq", "2", "--output", "there")[0] == 64
    assert call(capfd, "prove", *READER, "--agent", "web-1", "--seq", "2", "--output", "no/b.zip")[0] == 78
    assert call(capfd, "verify", "b.zip", "--vkey", made.vkeys[0])[0] == 64
    assert call(capfd, "verify", "b.zip", "--vkey", "nonsense")[0] == 64
    assert call(capfd, "verify", "nowhere.zip", "--vkey", "@vkeys")[0] == 78
    assert call(capfd, "verify", "there", "--vkey", "@vkeys", "--show", "--json")[0] == 64
    assert call(capfd, "verify", "there", "--vkey", "@nowhere")[0] == 78
    (site / "blank").write_text(" \n")
    assert call(capfd, "verify", "there", "--vkey", "@blank")[0] == 64
    (site / "mixed").write_text("\n".join((made.vkeys[0], LogBuilder(9, tenant="x").vkeys[1])))
    assert call(capfd, "verify", "there", "--vkey", "@mixed")[0] == 64
    assert call(capfd, "verify", "there", "--vkey", "@vkeys", "--policy", "there")[0] == 78
    for region in ("nowhere", "ftp://x/y"):
        code = call(
            capfd, "prove", *READER, "--region", region, "--agent", "a", "--seq", "1", "--output", "z"
        )[0]
        assert code in (64, 78)
    assert call(capfd, "nonsense")[0] == 64
    assert call(capfd, "--version")[1].startswith("duramen")
    assert "export" in call(capfd, "--help")[1]


def test_region_without_checkpoint(site, capfd):
    (site / "region/acme/checkpoint").unlink()
    assert call(capfd, "prove", *READER, "--agent", "web-1", "--seq", "2", "--output", "b.zip")[0] == 2
    code, out, _ = call(capfd, "export", *READER, "--output", "out")
    assert code == 2
    assert "replica_missing" in out
    assert call(capfd, "log", "checkpoint", "region/acme", "--vkey", "@vkeys")[0] == 78


# ---------------------------------------------------------------- log


def test_fsck_and_checkpoint(site, made, capfd):
    code, value = call_json(capfd, "log", "fsck", "region/acme", "--vkey", "@vkeys")
    assert (code, value["verdict"], value["entries"], value["statements"]) == (
        0,
        "verified",
        made.size,
        made.size,
    )
    code, out, _ = call(capfd, "log", "fsck", f"file://{site}/region/acme", "--vkey", "@vkeys")
    assert code == 0
    assert "the log is whole" in out
    code, value = call_json(capfd, "log", "checkpoint", "region/acme", "--vkey", "@vkeys")
    assert (code, value["size"]) == (0, made.size)
    code, out, _ = call(capfd, "log", "checkpoint", "region/acme", "--vkey", made.vkeys[0])
    assert code == 0
    assert made.keys.origin in out
    tile = site / f"region/acme/tile/0/000.p/{made.size}"
    tile.write_bytes(tile.read_bytes() + b"\0")
    code, out, _ = call(capfd, "log", "fsck", "region/acme", "--vkey", "@vkeys")
    assert code == 2
    assert "replica_corrupt: tile/0/000.p" in out
    assert "NOT whole" in out
    code, value = call_json(capfd, "log", "fsck", "region/acme", "--vkey", "@vkeys")
    assert code == 2
    assert value["defects"][0]["code"] == "replica_corrupt"
    (site / "region/acme/checkpoint").write_bytes(b"junk")
    assert call(capfd, "log", "fsck", "region/acme", "--vkey", "@vkeys")[0] == 2
    code, _, err = call(capfd, "log", "checkpoint", "region/acme", "--vkey", "@vkeys")
    assert code == 2
    assert err
    (site / "policy").write_text("quorum none\n")
    for name in ("policy",):
        code = call(capfd, "log", "fsck", "region/acme", "--vkey", made.vkeys[0], "--policy", name)[0]
        assert code == 64


@pytest.mark.parametrize("kind", [KeyKind.ED25519, KeyKind.COSIGNATURE_MLDSA44])
def test_fsck_of_another_software_s_log(site, capfd, kind):
    """Opaque entries, an extension line in the checkpoint, one signature of either kind."""
    entries = [b"entry %d" % number for number in range(300)]
    tree = CompactRange()
    tree.extend(map(leaf_hash, entries))
    extensions = ("an extension",) if kind is KeyKind.ED25519 else ()
    checkpoint = Checkpoint("other.example/log", 300, tree.root(), extensions)
    if kind is KeyKind.ED25519:
        signer = NoteSigner("other.example/log", bytes([1] * 32))
        vkey, line = signer.key(), signer.sign(checkpoint.text())
    else:
        vkey = VerifierKey("other.example/log", kind, mldsa44_public_from_seed(bytes([1] * 32)))
        line = cosign(checkpoint, "other.example/log", kind, bytes([1] * 32), 1)
    files = {"checkpoint": Note(checkpoint.text(), (line,)).encode()}
    for path, data in {
        **grow(0, {}, [leaf_hash(item) for item in entries]),
        **grow_entries(0, {}, entries),
    }.items():
        files[path.path()] = data
    for name, data in files.items():
        (site / "other" / name).parent.mkdir(parents=True, exist_ok=True)
        (site / "other" / name).write_bytes(data)
    code, value = call_json(capfd, "log", "fsck", "other", "--vkey", vkey.encode())
    assert (code, value["entries"], value["statements"]) == (0, 300, 0)
    (site / "other/tile/0/000").unlink()
    assert call(capfd, "log", "fsck", "other", "--vkey", vkey.encode())[0] == 2


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def served(site):
    """The region behind a web server, which wants a token."""
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(site / "region"), **kwargs)

        def do_GET(self):
            seen.append(self.headers.get("Authorization"))
            if self.path.startswith("/broken"):
                self.send_error(500)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_over_http(site, made, served, capfd):
    url, seen = served
    (site / "token").write_text("t0ken\n")
    code, value = call_json(capfd, "log", "fsck", f"{url}/acme", "--vkey", "@vkeys", "--token", "@token")
    assert (code, value["entries"]) == (0, made.size)
    assert set(seen) == {"Bearer t0ken"}
    (site / "region/acme/head").write_text(json.dumps({"accepted": {"pack": made.previous.hex()}}))
    arguments = ["--tenant", "acme", "--vkey", "@vkeys", "--key", "reader.key", "--passphrase-file", "pw"]
    code, *_ = call(capfd, "export", "--region", url, *arguments, "--output", "out")
    assert code == 0
    assert (site / "out/web-1/var/log/app.log").read_bytes() == LINES
    assert call(capfd, "log", "fsck", f"{url}/broken", "--vkey", "@vkeys")[0] == 74
    assert call(capfd, "log", "fsck", "http://127.0.0.1:1/", "--vkey", "@vkeys")[0] == 74
    assert call(capfd, "log", "fsck", url, "--vkey", "@vkeys", "--token", "secret")[0] == 64
    assert call(capfd, "log", "fsck", "http://example.com/", "--vkey", "@vkeys", "--token", "@token")[0] == 64
    assert call(capfd, "log", "fsck", "region/acme", "--vkey", "@vkeys", "--token", "@token")[0] == 64


def test_directory_reader(site):
    reader = DirectoryReader(site / "region")
    assert reader.read("acme") is None
    assert reader.read("acme/checkpoint/x") is None
    assert reader.read_start("acme/checkpoint", 4) == b"logs"
    (site / "region/.hidden").mkdir()
    (site / "region/.hidden/x").write_text("")
    (site / "region/acme/.lock").write_text("")
    listed = list(reader.keys(""))
    assert listed == sorted(listed)
    assert not any("/." in f"/{key}" for key in listed)
    assert list(reader.keys("nowhere/")) == []
    for key in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(UsageError):
            reader.read(key)
    loop = site / "region/loop"
    loop.symlink_to(loop)
    with pytest.raises(StorageError):
        reader.read("loop")


# ---------------------------------------------------------------- as processes


def process(*argv, cwd, offline=False):
    command = [sys.executable, "-m", "duramen.cli", *map(str, argv)]
    if offline:
        command = ["unshare", "--net", "--map-root-user", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "core")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=60, check=False)


@pytest.mark.process
def test_offline_as_a_process(site):
    proven = process(
        "prove", *READER, "--agent", "web-1", "--seq", "2-3", "--output", "b.zip", cwd=site, offline=True
    )
    assert (proven.returncode, proven.stderr) == (0, b"")
    verified = process("verify", "b.zip", "--vkey", "@vkeys", "--show", cwd=site, offline=True)
    assert (verified.returncode, verified.stderr) == (0, b"")
    assert verified.stdout == LINES + b"no line feed" + b"from a journal\n"
    assert process("verify", "nowhere", "--vkey", "@vkeys", cwd=site).returncode == 78
    assert process("--version", cwd=site).stdout.startswith(b"duramen")


@pytest.mark.process
def test_the_reader_imports_nothing_of_agent_or_collector_and_no_http(site):
    others = ("httpx", "duramen_agent", "duramen_collector")
    code = f"import sys, duramen.cli; print([n for n in sys.modules if n.split('.')[0] in {others}])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "core")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=site, env=environment, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.strip() == b"[]"


def test_envelope_keys_are_where_the_reader_looks(made):
    block = made.agents["web-1"].blocks[1]
    assert envelope_key("acme", block.header.dek, made.readers[0].recipient.key_hash) in made.objects
