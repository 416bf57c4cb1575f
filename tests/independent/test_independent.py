"""Holds that the golden vectors are what docs/DESIGN.md says, by the verifier and the client beside this.

It assumes the vectors in tests/vectors only; nothing here imports the product.
"""

import base64
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.independent import tiles_client as tlog
from tests.independent import verifier as v

VECTORS = Path(__file__).parent.parent / "vectors"
DURAMEN = VECTORS / "duramen"
INVALID = sorted((DURAMEN / "invalid").glob("*.json"))


def load(path):
    return json.loads(path.read_text())


def unhex(value):
    """Turn the strings of a vector file that are hex into bytes."""
    if isinstance(value, dict):
        return {k: unhex(x) for k, x in value.items()}
    if isinstance(value, list):
        return [unhex(x) for x in value]
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        return value


CHAIN = unhex(load(DURAMEN / "chain.json"))
CHECKPOINT = load(DURAMEN / "checkpoint.json")
DATAKEY = unhex(load(DURAMEN / "datakey.json"))
ENVELOPE = unhex(load(DURAMEN / "envelope.json"))
RATCHET = unhex(load(DURAMEN / "ratchet.json"))
RECORDS = load(DURAMEN / "records.json")
KEYS = (CHECKPOINT["origin"], *CHECKPOINT["vkeys"])
BLOCKS = [v.parse_statement(s["statement"]) for s in CHAIN["statements"]]

PARSERS = {
    "statement": v.parse_statement,
    "canonical": v.parse_json,
    "envelope": v.parse_envelope,
    "frames": v.parse_frames,
    "key_list": v.parse_key_list,
    "pack": v.parse_pack,
    "payload": v.parse_payload,
    "run": v.parse_run,
    "seed_file": v.parse_seed_file,
}


# ---------------------------------------------------------------- vectors that stand


def test_every_vector_file_is_used():
    names = {p.name for p in DURAMEN.glob("*.json")}
    assert names == {
        f"{n}.json" for n in ("chain", "checkpoint", "datakey", "envelope", "padding", "ratchet", "records")
    }


def test_the_chain_follows():
    chain = v.begin(BLOCKS[0])
    for block in BLOCKS[1:]:
        chain = v.advance(chain, block)
    assert [b.hash for b in BLOCKS] == [s["hash"] for s in CHAIN["statements"]]
    assert (chain.seq, chain.records) == (4, 5)
    assert BLOCKS[0].genesis.tenant == "acme"
    assert BLOCKS[0].genesis.log == v.log_id(*KEYS)
    for block, s in zip(BLOCKS, CHAIN["statements"], strict=True):
        v.check_body(block, s["body"])


def test_the_notice_is_signed():
    notice = v.parse_statement(CHAIN["notice"])
    notice.verify(CHAIN["notice_public"])
    assert notice.type == "enrol"


def test_frames_and_pack_hold_the_statements():
    frames = v.parse_frames(CHAIN["frames"])
    assert [(f.data, f.body) for f in frames] == [
        *((s["statement"], s["body"]) for s in CHAIN["statements"]),
        (CHAIN["notice"], b""),
    ]
    pack = v.parse_pack(CHAIN["pack"])
    assert hashlib.sha256(CHAIN["pack"]).digest() == CHAIN["pack_sha256"]
    assert [f.data for f in pack.frames] == [f.data for f in frames]


def test_ratchet():
    seed, public = RATCHET["seed"], []
    assert v.next_seed(seed) == RATCHET["next_seed"]
    for _ in RATCHET["public"]:
        public.append(v.signing_public(seed))
        seed = v.next_seed(seed)
    assert public == RATCHET["public"]
    assert [BLOCKS[0].genesis.public, BLOCKS[0].next, BLOCKS[1].next] == public
    assert v.parse_seed_file(RATCHET["seed_file"]) == (7, RATCHET["seed"])
    beat = RATCHET["heartbeat"]
    assert (beat["chain"], beat["head"], beat["public"]) == (BLOCKS[0].hash, BLOCKS[4].hash, BLOCKS[4].next)
    v.check_heartbeat(
        beat["public"], beat["signature"], beat["chain"], beat["next_seq"], beat["head"], beat["nonce"]
    )


def test_data_key():
    dek = DATAKEY["dek"]
    assert v.data_key_id(dek) == DATAKEY["id"] == BLOCKS[1].dek
    assert v.next_chaining_key(dek) == DATAKEY["chaining_key_1"]
    assert v.block_key(dek, BLOCKS[2]) == DATAKEY["block_key_0"]


def test_padding():
    assert {str(n): v.padme(n) for n in map(int, load(DURAMEN / "padding.json"))} == load(
        DURAMEN / "padding.json"
    )


def test_envelope():
    _, public = v.reader_private(ENVELOPE["seed"])
    assert public == ENVELOPE["public"]
    assert v.envelope_info("acme", BLOCKS[1], public) == ENVELOPE["info"]
    assert v.open_envelope(ENVELOPE["envelope"], ENVELOPE["seed"], "acme", BLOCKS[1]) == ENVELOPE["dek"]
    keys = v.parse_key_list(CHAIN["statements"][1]["body"])
    assert keys.recipients == [(v.sha256(public), v.sha256(ENVELOPE["envelope"]))]
    with pytest.raises(v.Refused):
        v.open_envelope(ENVELOPE["envelope"], ENVELOPE["seed"], "acmf", BLOCKS[1])


def test_records():
    payload = v.parse_payload(bytes.fromhex(RECORDS["payload"]))
    assert payload.salt.hex() == RECORDS["salt_key"]
    assert b"".join(payload.salts()).hex() == RECORDS["salts"]
    assert payload.runs[0].line.decode() == RECORDS["run_line"]
    assert payload.leaves()[0].hex() == RECORDS["leaf_0"]
    assert tlog.tree_root(payload.leaves()).hex() == RECORDS["root"] == BLOCKS[2].root.hex()


def test_bodies_open():
    ck = DATAKEY["dek"]
    opened = []
    for i in (2, 3):
        opened.append(v.open_body(BLOCKS[i], CHAIN["statements"][i]["body"], v.block_key(ck, BLOCKS[i])))
        ck = v.next_chaining_key(ck)
    assert opened[0] == v.parse_payload(bytes.fromhex(RECORDS["payload"]))
    with pytest.raises(v.Refused):
        v.open_body(BLOCKS[3], CHAIN["statements"][3]["body"], v.block_key(DATAKEY["dek"], BLOCKS[3]))


def test_checkpoint():
    c = v.check_checkpoint(CHECKPOINT["note"].encode(), *KEYS)
    assert (c.size, c.root.hex()) == (CHECKPOINT["size"], CHECKPOINT["root"])
    leaves = [tlog.leaf_hash(s) for s in [*(s["statement"] for s in CHAIN["statements"]), CHAIN["notice"]]]
    assert tlog.tree_root(leaves) == c.root


def test_checkpoint_needs_both_signatures():
    lines = CHECKPOINT["note"].splitlines(keepends=True)
    for dropped in (4, 5):
        with pytest.raises(v.Refused):
            v.check_checkpoint("".join(lines[:dropped] + lines[dropped + 1 :]).encode(), *KEYS)
    changed = CHECKPOINT["note"].replace("\n6\n", "\n7\n").encode()
    with pytest.raises(v.Refused):
        v.check_checkpoint(changed, *KEYS)


# ---------------------------------------------------------------- vectors that fall


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_invalid_vector_is_refused(path):
    case = load(path)
    with pytest.raises(v.Refused):
        PARSERS[case["parser"]](bytes.fromhex(case["data"]))


def test_bodies_with_one_defect_are_refused():
    block, body = BLOCKS[2], CHAIN["statements"][2]["body"]
    key = v.block_key(DATAKEY["dek"], block)
    aad = v.additional_data(block)
    padded = AESGCM(key).decrypt(body[:12], body[12:], aad)
    assert v.decompress(padded) == bytes.fromhex(RECORDS["payload"])
    for bad in (
        padded + b"\0",
        padded[:-1],
        padded[:-1] + b"\1" if not padded[-1] else padded[:-1] + b"\0",
        b"\x50\x2a\x4d\x18\0\0\0\0" + padded,
        padded[:4] + bytes([padded[4] | 4]) + padded[5:],
        padded[:60],
    ):
        sealed = bytes(12) + AESGCM(key).encrypt(bytes(12), bad, aad)
        renamed = replace(block, body=v.sha256(sealed), size=len(sealed))
        with pytest.raises(v.Refused):
            v.open_body(renamed, sealed, key)


@pytest.mark.parametrize("i", [1, 2, 3, 4])
def test_blocks_that_do_not_follow_are_refused(i):
    chain = v.begin(BLOCKS[0])
    for block in BLOCKS[1:i]:
        chain = v.advance(chain, block)
    for other in {0, 1, 2, 3, 4} - {i}:
        with pytest.raises(v.Refused):
            v.advance(chain, BLOCKS[other])
    for change in ({"next": RATCHET["public"][0]}, {"records": 9}, {"head": bytes(32)}, {"chain": bytes(32)}):
        with pytest.raises(v.Refused):
            v.advance(replace(chain, **change), BLOCKS[i])
    if BLOCKS[i].kind == v.KEYS:
        with pytest.raises(v.Refused):
            v.advance(replace(chain, keys={(9, 9): (BLOCKS[i].dek, 0)}), BLOCKS[i])
    if BLOCKS[i].count:
        with pytest.raises(v.Refused):
            v.advance(replace(chain, keys={}), BLOCKS[i])


# ---------------------------------------------------------------- the tlog-tiles client


def make_log(entries, origin="example.org/log", seed=bytes(32)):
    """Write a log as the C2SP text has it: all tiles of one tree size, in a dict by path."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    material = b"\x01" + private.public_key().public_bytes_raw()
    key_id = hashlib.sha256(origin.encode() + b"\n" + material).digest()[:4]
    files, hashes, level = {}, [tlog.leaf_hash(e) for e in entries], 0
    root = tlog.tree_root(hashes)
    while hashes:
        for i in range(0, len(hashes), 256):
            tile = hashes[i : i + 256]
            files[tlog.tile_path(level, i // 256, len(tile))] = b"".join(tile)
            if level == 0:
                bundle = b"".join(struct.pack(">H", len(e)) + e for e in entries[i : i + 256])
                files[tlog.tile_path("entries", i // 256, len(tile))] = bundle
        hashes = [tlog.tree_root(hashes[i : i + 256]) for i in range(0, len(hashes) // 256 * 256, 256)]
        level += 1
    text = f"{origin}\n{len(entries)}\n{base64.b64encode(root).decode()}\n"
    signature = base64.b64encode(key_id + private.sign(text.encode())).decode()
    files["checkpoint"] = f"{text}\n— {origin} {signature}\n".encode()
    return files, f"{origin}+{key_id.hex()}+{base64.b64encode(material).decode()}"


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 512, 700, 65_536 + 256 + 1])
def test_client_reads_a_log_and_proves_its_entries(size):
    entries = [str(i).encode() for i in range(size)]
    files, vkey = make_log(entries)
    log = tlog.Log(files.__getitem__, vkey)
    assert log.check() == entries
    for i in {0, 1, 254, 255, 256, size // 2, size - 1} & set(range(size)):
        proof = log.inclusion_proof(i)
        tlog.verify_inclusion(i, size, tlog.leaf_hash(log.entry(i)), proof, log.checkpoint.root)
        for bad in (proof[:-1], [*proof, bytes(32)], [bytes(32), *proof[1:]]):
            if bad != proof:
                with pytest.raises(tlog.TlogError):
                    tlog.verify_inclusion(i, size, tlog.leaf_hash(log.entry(i)), bad, log.checkpoint.root)
        old = i + 1
        tlog.verify_consistency(old, size, log.consistency_proof(old), log.root(old), log.checkpoint.root)


def test_client_refuses_a_log_with_one_defect():
    entries = [str(i).encode() for i in range(300)]
    files, vkey = make_log(entries)
    for path, data in files.items():
        for bad in (data[:-1], data + b"\0", bytes([data[0] ^ 1]) + data[1:], None):
            broken = (
                {**files, path: bad} if bad is not None else {p: d for p, d in files.items() if p != path}
            )
            with pytest.raises(tlog.TlogError):
                tlog.Log(broken.__getitem__, vkey).check()


def test_client_takes_the_full_tile_that_replaced_a_partial_one():
    old, vkey = make_log([str(i).encode() for i in range(100)])
    new, _ = make_log([str(i).encode() for i in range(256)])
    assert len(tlog.Log({**new, "checkpoint": old["checkpoint"]}.__getitem__, vkey).check()) == 100


def region_files():
    """Lay the golden chain out as section 8 lays out a region."""
    statements = [*(s["statement"] for s in CHAIN["statements"]), CHAIN["notice"]]
    files, _ = make_log(statements)
    files["checkpoint"] = CHECKPOINT["note"].encode()
    files = {f"acme/{path}": data for path, data in files.items()}
    files[f"acme/packs/{CHAIN['pack_sha256'].hex()}.pack"] = CHAIN["pack"]
    return files


def test_client_reads_the_golden_log_from_a_directory(tmp_path):
    for path, data in region_files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    log = tlog.Log(tlog.reader(tmp_path / "acme"), CHECKPOINT["vkeys"][0])
    assert len(log.check()) == 6
    assert log.checkpoint.origin == CHECKPOINT["origin"]


def test_verifier_verifies_the_golden_region():
    files = region_files()
    name = CHAIN["pack_sha256"].hex()
    region = v.verify_region(
        files.__getitem__,
        "acme",
        KEYS,
        [name],
        [CHAIN["notice_public"]],
        ENVELOPE["seed"],
        lambda *_: ENVELOPE["envelope"],
    )
    assert len(region.payloads) == 2
    assert list(region.chains) == [BLOCKS[0].hash]
    with pytest.raises(v.Refused):
        v.verify_region(files.__getitem__, "acme", KEYS, [], [CHAIN["notice_public"]])
    with pytest.raises(v.Refused):
        v.verify_region(files.__getitem__, "acme", KEYS, [name], [])


# ---------------------------------------------------------------- vectors of other projects


def test_published_roots():
    published = load(VECTORS / "published" / "rfc6962_roots.json")
    leaves = [tlog.leaf_hash(bytes.fromhex(h)) for h in published["leaves_hex"]]
    roots = [tlog.tree_root(leaves[:n]).hex() for n in range(len(leaves) + 1)]
    assert roots == published["roots_by_size"]


def test_published_tile_paths():
    published = load(VECTORS / "published" / "tile_paths.json")
    for index, path in published["c2sp_index"].items():
        assert tlog.tile_path(0, int(index)) == f"tile/0/{path}"


def test_published_note():
    published = load(VECTORS / "published" / "notes.json")
    for name in ("c2sp_example", "peter"):
        case = published[name]
        file = case.get("file") or published["file"]
        note = (VECTORS / "published" / file).read_bytes()
        assert note.startswith(tlog.verify_note(note, tlog.parse_vkey(case["vkey"])))
    with pytest.raises(tlog.TlogError):
        tlog.parse_vkey(published["bad_vkeys"][0])


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_published_proofs(kind):
    for name, case in load(VECTORS / "published" / "merkle" / f"{kind}.json").items():
        proof = [base64.b64decode(h) for h in case["proof"] or []]
        try:
            if kind == "inclusion":
                root, leaf = base64.b64decode(case["root"] or ""), base64.b64decode(case["leafHash"] or "")
                tlog.verify_inclusion(case["leafIdx"], case["treeSize"], leaf, proof, root)
            else:
                roots = [base64.b64decode(case[r] or "") for r in ("root1", "root2")]
                tlog.verify_consistency(case["size1"], case["size2"], proof, *roots)
            refused = False
        except tlog.TlogError:
            refused = True
        assert refused == case["wantErr"], name
