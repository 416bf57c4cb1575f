"""Holds the product against the second verifier: on mutated vectors both accept, or both refuse.

It assumes no more than the vectors. What one side refuses and docs/DESIGN.md leaves open is listed in `OPEN`,
by the side's reason. A refusal that is not listed fails the test, and so does an error of any other kind.
Where product and page differ, a test at the end says so and is expected to fail until they do not.
"""

import json
import random
import re
import struct
import tracemalloc

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from duramen import body, canonical, chain, envelope, frame, merkle, note, ratchet, records, statement, tiles
from duramen.checkpoint import Checkpoint, LogKeys, LogSigner, open_checkpoint, open_foreign_checkpoint
from duramen.errors import DuramenError
from duramen.logreader import check_log
from tests.independent import test_independent as vectors
from tests.independent import tiles_client as tlog
from tests.independent import verifier as v

ROUNDS = 1500

OPEN = (
    "key: not on the curve",  # a key that is no point is only named and never verifies anything
    "block: step",  # whether the limit of 65,535 steps binds readers
    "genesis: replaces",  # whether the seq of the chain replaced is below 2^63
    "pack: previous",  # whether a parser sees that only the first pack has no pack before it
    "pack: root before the first",
    "is not an unsigned integer up to",  # the product's bounds of a run's numbers
    "is not a string of at most",  # and of names
    "is not an object of at most",
)

TOKENS = (
    *("null", "true", "false", "0", "-1", "-0", "1.0", "1e3", "9007199254740992", "9007199254740993"),
    *('"9007199254740993"', '"5"', '""', "[]", "{}", '"/w=="', "\\n", "\\u0000", "\\/", '"é"', '"𝄞"', '"ﬀ"'),
    *('"more":true,', '"labels":{"a":"b"},', "18446744073709551615", "99999999999999999999"),
    *('"18446744073709551615"', '"18446744073709551616"'),
)


def mutated(rng, data):
    """Return `data` with one to three changes; half of them to JSON tokens where there are any."""
    d = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        i, n = rng.randrange(len(d) + 1), rng.choice((1, 1, 2, 4, 8, 16, 32))
        tokens = list(re.finditer(rb'"[^"]*"|\d+|true|\[\]|\{\}', bytes(d)))
        match rng.randrange(9):
            case 0:
                d[i : i + 1] = bytes(b ^ 1 << rng.randrange(8) for b in d[i : i + 1])
            case 1:
                d[i : i + 1] = rng.choice((b"\0", b"\1", b"\xff", b"\x7f", b"\n", b'"', b",", b"{", b"}"))
            case 2:
                d[i:i] = rng.randbytes(n)
            case 3:
                del d[i : i + n]
            case 4:
                d[i : i + n] = rng.choice((b"\0", b"\xff", b"\x7f")) * n
            case 5:
                del d[i:]
            case 6:
                j = rng.randrange(len(d) + 1)
                d[i : i + n] = d[j : j + n]
            case _ if tokens:
                start, end = rng.choice(tokens).span()
                start, end = rng.choice(((start, end), (start, start), (end, end)))
                d[start:end] = rng.choice([*(t.encode() for t in TOKENS), rng.choice(tokens).group()])
    return bytes(d)


def verdict(parse, *arguments):
    """Return None for what is accepted, else the reason."""
    try:
        parse(*arguments)
    except (v.Refused, tlog.TlogError, DuramenError) as e:
        return str(e)
    except ValueError as e:
        if "only ASCII" not in str(e):  # see the test of base64 that is not ASCII
            raise
        return str(e)
    return None


def compare(mine, peer, *arguments):
    ours, theirs = verdict(mine, *arguments), verdict(peer, *arguments)
    if (ours is None) != (theirs is None) and not any(reason in (ours or theirs) for reason in OPEN):
        raise AssertionError((ours, theirs, *arguments))
    return ours is None


def frame_checked(found):
    """Check what section 10 has a verifier check of a frame, beyond its form."""
    for item in found:
        if isinstance(item.statement, statement.Block):
            chain.check_body(item.statement, item.body)
            header = item.statement.header
            if header.kind is statement.BlockKind.KEYS:
                keys = envelope.parse_key_list(item.body)
                named = (keys.dek, keys.group, keys.retention_class)
                if named != (header.dek, header.group, header.retention_class):
                    raise v.Refused("key list of another block")


PEERS = {
    "statement": statement.parse_statement,
    "canonical": lambda data: canonical.decode(data, "the vector"),
    "envelope": envelope.check_envelope,
    "frames": lambda data: frame_checked(frame.parse_frames(data)),
    "key_list": envelope.parse_key_list,
    "pack": lambda data: frame_checked(frame.parse_pack(data).frames),
    "payload": body.parse_payload,
    "run": body.parse_run,
    "seed_file": ratchet.parse_seed_file,
}

KEY = v.block_key(vectors.DATAKEY["dek"], vectors.BLOCKS[2])
SEALED = vectors.CHAIN["statements"][2]["body"]
PAYLOAD = bytes.fromhex(vectors.RECORDS["payload"])
PADDED = AESGCM(KEY).decrypt(SEALED[:12], SEALED[12:], v.additional_data(vectors.BLOCKS[2]))
NOTICE = vectors.CHAIN["notice"]

SEEDS = {
    "statement": [*(s["statement"] for s in vectors.CHAIN["statements"]), NOTICE],
    "canonical": [
        NOTICE[:-64],
        '[null,true,-9007199254740992,{"a":[],"b":{}},"\\u0001\\n\\"\\\\é𝄞\x7f"]'.encode(),
        b"1",
        b'""',
    ],
    "envelope": [vectors.ENVELOPE["envelope"]],
    "frames": [vectors.CHAIN["frames"]],
    "key_list": [vectors.CHAIN["statements"][1]["body"]],
    "pack": [vectors.CHAIN["pack"]],
    "payload": [PAYLOAD],
    "run": [run.line for run in v.parse_payload(PAYLOAD).runs],
    "seed_file": [vectors.RATCHET["seed_file"]],
}


# ---------------------------------------------------------------- parsers


@pytest.mark.parametrize("kind", PEERS)
def test_parsers_agree(kind):
    rng = random.Random(kind)
    cases = [(c["parser"], bytes.fromhex(c["data"])) for c in map(vectors.load, vectors.INVALID)]
    seeds = SEEDS[kind] + [data for parser, data in cases if parser == kind and len(data) < 9000]
    for data in SEEDS[kind]:
        assert compare(vectors.PARSERS[kind], PEERS[kind], data)
    accepted = sum(
        compare(vectors.PARSERS[kind], PEERS[kind], mutated(rng, rng.choice(seeds))) for _ in range(ROUNDS)
    )
    assert accepted


def test_canonical_agrees_on_any_value():
    rng = random.Random(0)

    def value(depth):
        kind = rng.randrange(7 if depth < 5 else 4)
        if kind < 2:
            return "".join(
                chr(rng.choice((1, 10, 34, 92, 97, 0x7F, 0xE9, 0x2028, 0xFFFD, 0x1D11E))) for _ in range(3)
            )
        if kind < 4:
            return rng.choice((None, True, False, 0, -1, 2**53, 2**53 + 1, -(2**53) - 1))
        if kind == 4:
            return [value(depth + 1) for _ in range(rng.randrange(3))]
        return {chr(rng.choice((65, 0xE9, 0xFF21, 0x1D11E))): value(depth + 1) for _ in range(3)}

    for _ in range(ROUNDS):
        item = value(0)
        text = json.dumps(
            item, ensure_ascii=rng.random() < 0.1, sort_keys=rng.random() < 0.9, separators=(",", ":")
        )
        compare(v.parse_json, PEERS["canonical"], text.encode())
    for depth in range(28, 40):
        for inner in ("", "1", "{}"):
            compare(v.parse_json, PEERS["canonical"], ("[" * depth + inner + "]" * depth).encode())


def test_zstd_frames_agree():
    rng = random.Random(1)
    assert v.decompress(PADDED) == body._decompress(PADDED)
    for _ in range(ROUNDS):
        data = mutated(rng, PADDED)
        ours, theirs = verdict(v.decompress, data), verdict(body._decompress, data)
        # The product takes a frame whose last block is not marked so: see the test of unfinished frames.
        assert (ours is None) == (theirs is None) or ours == "body: zstd", data


def test_record_trees_agree():
    rng = random.Random(2)
    for _ in range(200):
        raws = [
            bytes(rng.choice(b"ab\n") for _ in range(rng.randrange(1, 9))) for _ in range(rng.randrange(1, 4))
        ]
        lines = [
            body.Run(
                "s", b"/\xff" if rng.random() < 0.3 else b"/a", "f", 0, len(raw), records.count(raw), 1
            ).encode()
            for raw in raws
        ]
        payload = body.encode_payload(rng.randbytes(32), lines, raws)
        assert tlog.tree_root(v.parse_payload(payload).leaves()) == body.parse_payload(payload).root()
        compare(v.parse_payload, body.parse_payload, mutated(rng, payload))


def test_padding_agrees():
    for n in [*range(5000), *(2**k + d for k in range(12, 24) for d in (-1, 0, 1))]:
        assert v.padme(n) == body.padded_size(n)


# ---------------------------------------------------------------- chains


def signed(header, seed):
    private = Ed25519PrivateKey.from_private_bytes(v.hkdf(seed, b"duramen/sign/v1"))
    return header + private.sign(b"duramen/block/v1\n" + header)


class Sealer:
    """Makes chains, right and wrong, from the genesis of the vectors on."""

    def __init__(self):
        self.seed = v.next_seed(vectors.RATCHET["seed"])
        self.ours = v.begin(vectors.BLOCKS[0])
        self.theirs = chain.begin(statement.parse_statement(SEEDS["statement"][0]))

    def offer(self, kind, *, group=1, klass=2, dek=v.ZERO16, step=0, count=0, wrong=None):
        sealed = dek != v.ZERO16
        fields = {
            "version": 1,
            "kind": kind,
            "flags": 0,
            "chain": self.ours.chain,
            "seq": self.ours.seq + 1,
            "prev": self.ours.head,
            "start": self.ours.records,
            "count": count,
            "root": v.sha256(b"root") if count else v.EMPTY,
            "body": v.sha256(b"body") if sealed else v.EMPTY,
            "size": int(sealed),
            "group": group,
            "class": klass,
            "dek": dek,
            "step": step,
            "sealed": 1,
            "mono": 1,
            "boot": bytes(8),
            "seen": 0,
            "seen_root": v.ZERO32,
            "next": v.signing_public(v.next_seed(self.seed)),
        }
        seed = self.seed
        if wrong == "seed":
            seed = v.next_seed(seed)
        elif wrong in ("chain", "prev"):
            fields[wrong] = v.sha256(b"other")
        elif wrong in ("seq", "start"):
            fields[wrong] += 1
        data = signed(v.HEADER.pack(*fields.values()), seed)
        results = []
        for advance, state, parse in (
            (v.advance, self.ours, v.parse_statement),
            (chain.advance, self.theirs, statement.parse_statement),
        ):
            try:
                results.append(advance(state, parse(data)))
            except (v.Refused, DuramenError):
                results.append(None)
        assert (results[0] is None) == (results[1] is None), (fields, results)
        if results[0] is not None:
            self.ours, self.theirs = results
            self.seed = v.next_seed(self.seed)
            assert (self.ours.head, self.ours.records) == (self.theirs.head, self.theirs.records)
        return results[0] is not None


@pytest.mark.parametrize("number", range(8))
def test_chains_agree(number):
    rng = random.Random(number)
    sealer, deks, taken = Sealer(), [], 0
    for i in range(60):
        wrong = rng.choice((None, None, None, "seed", "chain", "prev", "seq", "start"))
        group, klass = rng.randrange(2), rng.randrange(2)
        in_force = sealer.ours.keys.get((group, klass))
        match rng.randrange(4):
            case 0:
                again = [dek for dek, _ in sealer.ours.keys.values()]
                dek = rng.choice(again) if again and rng.random() < 0.3 else v.sha256(bytes([i]))[:16]
                taken += sealer.offer(v.KEYS, group=group, klass=klass, dek=dek, wrong=wrong)
                deks.append(dek)
            case 1:
                taken += sealer.offer(v.RECORDS, group=group, klass=klass, wrong=wrong)
            case _ if deks:
                dek, step = (
                    in_force if in_force and rng.random() < 0.8 else (rng.choice(deks), rng.randrange(3))
                )
                count = rng.randrange(1, 5)
                taken += sealer.offer(
                    v.RECORDS, group=group, klass=klass, dek=dek, step=step, count=count, wrong=wrong
                )
    assert taken


# ---------------------------------------------------------------- logs


SIGNER = LogSigner("logs.example.com/acme", bytes(range(32)), bytes(range(32, 64)))
KEYS = SIGNER.keys()


def written(entries, steps):
    """Write a log as the product does, grown by `steps`, signed at its end."""
    files, size = {}, 0
    for end in [*steps, len(entries)]:
        edge = {p: files[p] for p in tiles.edge_paths(size)}
        new = list(entries[size:end])
        files |= tiles.grow(size, edge, [merkle.leaf_hash(e) for e in new])
        files |= tiles.grow_entries(size, edge, new)
        size = end
    named = {path.path(): data for path, data in files.items()}
    root = merkle.root_of([merkle.leaf_hash(e) for e in entries])
    named["checkpoint"] = SIGNER.sign(Checkpoint(SIGNER.origin, size, root), 1)
    return named


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700])
def test_the_client_reads_what_the_product_writes(size, tmp_path):
    entries = [v.sha256(bytes([i & 255, i >> 8])) * (1 + i % 3) for i in range(size)]
    for path, data in written(entries, sorted({size // 3, size // 2})).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    log = tlog.Log(tlog.reader(tmp_path), KEYS.ed25519.encode())
    assert log.check() == entries
    for i in {0, size // 2, size - 1}:
        proof = log.inclusion_proof(i)
        tlog.verify_inclusion(i, size, tlog.leaf_hash(entries[i]), proof, log.checkpoint.root)
        merkle.verify_inclusion(merkle.leaf_hash(entries[i]), i, size, proof, log.checkpoint.root)
        if i:
            proof = log.consistency_proof(i)
            merkle.verify_consistency(i, log.root(i), size, log.checkpoint.root, proof)


class Objects:
    """An object reader of the product's over a dict."""

    def __init__(self, files):
        self.read = files.get


def test_the_product_reads_what_the_client_does_and_refuses_what_it_refuses():
    entries = [str(i).encode() for i in range(300)]
    files, vkey = vectors.make_log(entries)
    rng = random.Random(3)

    def opened(data):
        return open_foreign_checkpoint(data, [note.parse_vkey(vkey)])

    def sound(broken):
        return check_log(Objects(broken), opened).is_sound

    assert sound(files)
    for path, data in files.items():
        for bad in [None, *(mutated(rng, data) for _ in range(12))]:
            broken = {p: d for p, d in {**files, path: bad}.items() if d is not None}
            refused = verdict(lambda files=broken: tlog.Log(files.__getitem__, vkey).check())
            assert (refused is None) == sound(broken), (path, bad)


def test_checkpoints_agree():
    keys = LogKeys(vectors.KEYS[0], *map(note.parse_vkey, vectors.KEYS[1:]))
    good = vectors.CHECKPOINT["note"].encode()
    rng = random.Random(4)
    assert compare(lambda n: v.check_checkpoint(n, *vectors.KEYS), lambda n: open_checkpoint(n, keys), good)
    lines = good.decode().splitlines(keepends=True)
    other = "— someone.else AAAAAAAAAA==\n"
    forms = [
        *(mutated(rng, good) for _ in range(300)),
        good.replace(b"\n6\n", b"\n06\n"),
        good.replace(b"\n6\n", b"\n6\n\n", 1),
        good.replace(b"\n\n", b"\nextension\n\n"),
        good.replace(b"\n", b"\r\n"),
        "".join([*lines, other]).encode(),
        "".join([*lines[:4], other, *lines[4:]]).encode(),
        "".join([*lines[:4], lines[5], lines[4]]).encode(),
        "".join(lines[:4]).encode(),
        good[:-1],
    ]
    for form in forms:
        compare(lambda n: v.check_checkpoint(n, *vectors.KEYS), lambda n: open_checkpoint(n, keys), form)


# ---------------------------------------------------------------- where the two once differed

LINE = SEEDS["run"][1]


def test_base64_that_is_not_ascii_is_a_format_error():
    with pytest.raises(DuramenError):
        body.parse_run(LINE.replace(b"L3Nydi//", "é".encode()))


def test_an_unfinished_zstd_frame_is_refused():
    at = body.zstandard.frame_header_size(PADDED)
    unfinished = PADDED[:at] + bytes([PADDED[at] & 0xFE]) + PADDED[at + 1 :]
    assert verdict(v.decompress, unfinished)
    assert verdict(body._decompress, unfinished)


def test_a_data_key_in_force_is_not_introduced_again():
    sealer, first, second = Sealer(), v.sha256(b"1")[:16], v.sha256(b"2")[:16]
    assert sealer.offer(v.KEYS, dek=first)
    assert not sealer.offer(v.KEYS, dek=first)
    assert sealer.offer(v.KEYS, dek=second)


def test_a_record_past_the_limit_is_refused():
    raw = b"a" * (v.MAX_RECORD + 1)
    payload = body.encode_payload(bytes(32), [body.Run("s", b"/a", "f", 0, len(raw), 1, 1).encode()], [raw])
    assert verdict(v.parse_payload, payload)
    assert verdict(body.parse_payload, payload)


def test_a_run_of_no_bytes():
    line = body.Run("s", b"/a", "f", 0, 0, 0, 1).encode()
    payload = body.encode_payload(bytes(32), [line], [b""])
    assert not compare(v.parse_payload, body.parse_payload, payload)


def test_a_signature_line_twice():
    keys = LogKeys(vectors.KEYS[0], *map(note.parse_vkey, vectors.KEYS[1:]))
    text = vectors.CHECKPOINT["note"]
    twice = (text + text.splitlines(keepends=True)[4]).encode()
    compare(lambda n: v.check_checkpoint(n, *vectors.KEYS), lambda n: open_checkpoint(n, keys), twice)


def test_a_frame_that_gives_more_than_it_states_costs_little():
    block = struct.pack("<I", (128 << 10) << 3 | 2)[:3] + b"a"
    bomb = b"\x28\xb5\x2f\xfd\x80\x50" + struct.pack("<I", 16 << 20) + block * 1000
    bomb = bomb[:-4] + bytes([bomb[-4] | 1]) + bomb[-3:]
    bomb = bomb.ljust(v.padme(len(bomb)), b"\0")
    for decompress in (v.decompress, body._decompress):
        tracemalloc.start()
        assert verdict(decompress, bomb)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20
