"""Golden vectors: regenerating leaves no diff, valid ones hold, invalid ones are refused with one error."""

import importlib.util
import json
from pathlib import Path

import pytest

from duramen import body, chain, envelope, frame, ratchet, statement
from duramen.checkpoint import LogKeys, open_checkpoint
from duramen.datakey import DataKeyRatchet
from duramen.errors import FormatError
from duramen.merkle import leaf_hash, root_of
from duramen.note import parse_vkey

VECTORS = Path(__file__).parent.parent / "vectors"
_spec = importlib.util.spec_from_file_location("vector_generator", VECTORS / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)
INVALID = sorted((VECTORS / "duramen" / "invalid").glob("*.json"))


def load(name):
    return json.loads((VECTORS / "duramen" / name).read_text())


def test_regenerating_leaves_no_diff():
    made = {name: generate.render(value) for name, value in generate.vectors().items()}
    root = VECTORS / "duramen"
    there = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.json")}
    assert made.keys() == there.keys()
    assert {name for name in made if made[name] != there[name]} == set()


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_is_refused_with_the_one_error(path):
    vector = json.loads(path.read_text())
    with pytest.raises(FormatError):
        generate.PARSERS[vector["parser"]](bytes.fromhex(vector["data"]))


def test_there_are_invalid_vectors_of_every_parser():
    assert {json.loads(path.read_text())["parser"] for path in INVALID} == generate.PARSERS.keys()


def test_chain_verifies_opens_and_packs():
    vector = load("chain.json")
    statements = [bytes.fromhex(item["statement"]) for item in vector["statements"]]
    bodies = [bytes.fromhex(item["body"]) for item in vector["statements"]]
    blocks = [statement.parse_statement(entry) for entry in statements]
    state = chain.begin(blocks[0])
    for block, sealed in zip(blocks[1:], bodies[1:], strict=True):
        state = chain.advance(state, block)
        chain.check_body(block, sealed)
    assert [block.hash.hex() for block in blocks] == [item["hash"] for item in vector["statements"]]
    assert (state.tenant, state.agent, state.records, state.stopped) == ("acme", "web-1", 5, True)

    sealed_envelope = load("envelope.json")
    reader = envelope.ReaderKey(bytes.fromhex(sealed_envelope["seed"]))
    keys = envelope.parse_key_list(bodies[1])
    context = envelope.EnvelopeContext("acme", state.chain, keys.dek, keys.group, keys.retention_class)
    assert context.info(reader.recipient.key_hash).hex() == sealed_envelope["info"]
    key = DataKeyRatchet.start(reader.unwrap(bytes.fromhex(sealed_envelope["envelope"]), context))
    restored = b""
    for block, sealed in zip(blocks[2:4], bodies[2:4], strict=True):
        at = key.forward_to(block.header.step)
        opened = body.open_body(
            block.header, sealed, at.block_key(state.chain, block.header.seq, block.header.root)
        )
        restored += b"".join(raw for run, _, raw in opened.runs if run.path == b"/var/log/app.log")
    assert restored == b"first line\nsecond line\ntorn and ended\n"

    notice = statement.parse_statement(bytes.fromhex(vector["notice"]))
    statement.verify_notice(notice, bytes.fromhex(vector["notice_public"]))
    pack = frame.parse_pack(bytes.fromhex(vector["pack"]))
    assert [item.statement for item in pack.frames] == [*blocks, notice]
    assert b"".join(item.encode() for item in pack.frames).hex() == vector["frames"]


def test_checkpoint_covers_the_statements():
    vector, held = load("checkpoint.json"), load("chain.json")
    keys = LogKeys(vector["origin"], *map(parse_vkey, vector["vkeys"]))
    signed = open_checkpoint(vector["note"].encode(), keys).checkpoint
    entries = [bytes.fromhex(item["statement"]) for item in held["statements"]] + [
        bytes.fromhex(held["notice"])
    ]
    assert (signed.size, signed.root) == (len(entries), root_of([leaf_hash(entry) for entry in entries]))


def test_heartbeat_and_seed_file():
    vector = load("ratchet.json")
    beat = {name: bytes.fromhex(beat) for name, beat in vector["heartbeat"].items() if isinstance(beat, str)}
    ratchet.verify_heartbeat(
        beat["public"],
        beat["chain"],
        vector["heartbeat"]["next_seq"],
        beat["head"],
        beat["nonce"],
        beat["signature"],
    )
    assert ratchet.parse_seed_file(bytes.fromhex(vector["seed_file"])).seed.hex() == vector["seed"]
