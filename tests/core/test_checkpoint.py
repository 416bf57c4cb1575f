import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from duramen.checkpoint import (
    Checkpoint,
    LogKeys,
    LogSigner,
    cosign,
    cosignature_timestamp,
    mldsa44_public_from_seed,
    open_checkpoint,
    open_foreign_checkpoint,
    parse_checkpoint_text,
    verify_cosignature,
)
from duramen.ed25519 import public_from_seed
from duramen.errors import FormatError, IntegrityError
from duramen.merkle import EMPTY_ROOT
from duramen.note import KeyKind, Note, NoteSigner, SignatureLine, VerifierKey, parse_note, parse_vkey
from duramen.policy import parse_policy

NOTES = json.loads((Path(__file__).parents[1] / "vectors" / "published" / "notes.json").read_text())
ORIGIN = "logs.example.com/acme"
SIGNER = LogSigner(ORIGIN, bytes(range(32)), bytes(range(32, 64)))
KEYS = SIGNER.keys()
TREE = Checkpoint(ORIGIN, 20852163, base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="))
RAW = SIGNER.sign(TREE, 1_700_000_000)
NOTE = parse_note(RAW)
ED, PQ = NOTE.signatures
ROOT = base64.b64encode(bytes(32)).decode()
E4, M6 = KeyKind.COSIGNATURE_ED25519, KeyKind.COSIGNATURE_MLDSA44


def witness_key(name, kind, seed):
    public = public_from_seed(seed) if kind is E4 else mldsa44_public_from_seed(seed)
    return VerifierKey(name, kind, public)


W1 = ("w1.example", E4, b"1" * 32)
W2 = ("w2.example", M6, b"2" * 32)
POLICY = parse_policy(
    f"log {KEYS.ed25519.encode()}\n"
    f"witness one {witness_key(*W1).encode()}\n"
    f"witness two {witness_key(*W2).encode()}\n"
    "group both all one two\nquorum both\n".encode()
)
EITHER = replace(POLICY, groups=(replace(POLICY.groups[0], threshold=1),))


def refused(code, data, keys=KEYS, policy=None):
    with pytest.raises(IntegrityError) as caught:
        open_checkpoint(data, keys, policy)
    assert caught.value.code == code
    return str(caught.value)


def test_both_signatures_are_made_and_demanded():
    signed = open_checkpoint(RAW, KEYS)
    assert signed.checkpoint == TREE
    assert signed.timestamp_seconds == 1_700_000_000
    assert (signed.raw, signed.note, signed.witnesses) == (RAW, NOTE, frozenset())
    assert [line.name for line in NOTE.signatures] == [ORIGIN, ORIGIN]
    assert [line.key_id for line in NOTE.signatures] == [KEYS.ed25519.key_id, KEYS.mldsa44.key_id]
    for lines in ((ED,), (PQ,), (ED, ED), (PQ, PQ), (ED, PQ, PQ), (ED, PQ, ED)):
        refused("checkpoint_invalid", Note(NOTE.text, lines).encode())
    open_checkpoint(Note(NOTE.text, (PQ, ED)).encode(), KEYS)


def test_the_deterministic_half_is_fixed():
    assert (
        KEYS.ed25519.encode() == "logs.example.com/acme+ffe8d364+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
    )
    assert KEYS.mldsa44.key_id.hex() == "86d39410"
    assert ED.encode() == (
        "— logs.example.com/acme "
        "/+jTZEvI3aZjKgx1/H1BqHQpLX5yoODK5IXeDmeKsTULvtyXonXIQ4PvFrt/"
        "BeAMPj0dOUQTczrXMyWuOBGf9ACrZAk=\n"
    )


def test_every_byte_of_a_signature_counts():
    for number, line in enumerate((ED, PQ)):
        for at in range(0, len(line.signature), 97):
            bad = bytearray(line.signature)
            bad[at] ^= 0x10
            lines = [ED, PQ]
            lines[number] = SignatureLine(ORIGIN, line.key_id, bytes(bad))
            refused("checkpoint_invalid", Note(NOTE.text, tuple(lines)).encode())
        for bad in (line.signature[:-1], line.signature + b"\0", line.signature[:1], line.signature[:8]):
            lines = [ED, PQ]
            lines[number] = SignatureLine(ORIGIN, line.key_id, bad)
            refused("checkpoint_invalid", Note(NOTE.text, tuple(lines)).encode())


def test_another_text_under_the_same_signatures_is_refused():
    for other in (
        replace(TREE, size=TREE.size + 1),
        replace(TREE, root=bytes(32)),
    ):
        refused("checkpoint_invalid", Note(other.text(), NOTE.signatures).encode())
    moved = Note(replace(TREE, origin="logs.example.com/beta").text(), NOTE.signatures)
    assert "logs.example.com/beta" in refused("checkpoint_invalid", moved.encode())
    with pytest.raises(FormatError):
        open_checkpoint(Note(TREE.text() + "extension\n", NOTE.signatures).encode(), KEYS)
    other = LogSigner(ORIGIN, b"x" * 32, SIGNER.mldsa44_seed).keys()
    refused("checkpoint_invalid", RAW, other)
    other = LogSigner(ORIGIN, SIGNER.ed25519_seed, b"x" * 32).keys()
    refused("checkpoint_invalid", RAW, other)


def test_the_timestamp_is_signed():
    moved = SignatureLine(ORIGIN, PQ.key_id, (1_700_000_001).to_bytes(8, "big") + PQ.signature[8:])
    refused("checkpoint_invalid", Note(NOTE.text, (ED, moved)).encode())
    for seconds in (-1, 2**63):
        with pytest.raises(FormatError):
            SIGNER.sign(TREE, seconds)
    assert open_checkpoint(SIGNER.sign(TREE, 2**63 - 1), KEYS).timestamp_seconds == 2**63 - 1
    beyond = SignatureLine(ORIGIN, PQ.key_id, b"\xff" * 8 + PQ.signature[8:])
    refused("checkpoint_invalid", Note(NOTE.text, (ED, beyond)).encode())


def test_the_ml_dsa_message_is_the_structure_of_the_specification():
    message = (
        b"subtree/v1\n\0"
        + bytes([len(ORIGIN)])
        + ORIGIN.encode()
        + (1_700_000_000).to_bytes(8, "big")
        + bytes([len(ORIGIN)])
        + ORIGIN.encode()
        + bytes(8)
        + TREE.size.to_bytes(8, "big")
        + TREE.root
    )
    public = MLDSA44PublicKey.from_public_bytes(KEYS.mldsa44.public)
    public.verify(PQ.signature[8:], message)
    assert len(PQ.signature) == 8 + 2420


def test_the_published_cosignature_states_its_time():
    vector = NOTES["cosig_timestamp"]
    raw = base64.b64decode(vector["base64"])
    line = SignatureLine("w", raw[:4], raw[4:])
    assert len(line.signature) == 8 + 64
    assert cosignature_timestamp(line) == vector["unix"]
    for bad in (raw[:4], raw[4:12], b"\xff" * 72):
        with pytest.raises(IntegrityError):
            cosignature_timestamp(SignatureLine("w", bytes(4), bad))


def test_the_published_tree_text_is_read():
    text = NOTES["sumdb_tree_text"]
    checkpoint = parse_checkpoint_text(text)
    assert (checkpoint.origin, checkpoint.size) == ("go.sum database tree", 123456789012)
    assert checkpoint.text() == text


@pytest.mark.parametrize("who", [W1, W2])
def test_cosignatures(who):
    name, kind, seed = who
    key = witness_key(*who)
    line = cosign(TREE, name, kind, seed, 1679315147)
    assert verify_cosignature(TREE, line, key) == 1679315147
    assert len(line.signature) == 8 + (64 if kind is E4 else 2420)
    shifted = SignatureLine(name, line.key_id, (1).to_bytes(8, "big") + line.signature[8:])
    for checkpoint, bad in (
        (replace(TREE, size=1), line),
        (replace(TREE, origin="other"), line),
        (TREE, shifted),
        (TREE, SignatureLine("other", line.key_id, line.signature)),
        (TREE, SignatureLine(name, line.key_id, line.signature[:-1])),
    ):
        with pytest.raises(IntegrityError) as caught:
            verify_cosignature(checkpoint, bad, key)
        assert caught.value.code == "signature_invalid"


def test_the_cosigners_name_is_under_the_ml_dsa_signature():
    name, kind, seed = W2
    line = cosign(TREE, name, kind, seed, 5)
    other = witness_key("w3.example", kind, seed)
    with pytest.raises(IntegrityError):
        verify_cosignature(TREE, SignatureLine(other.name, other.key_id, line.signature), other)


def test_a_plain_signature_is_no_cosignature():
    with pytest.raises(IntegrityError):
        verify_cosignature(TREE, ED, KEYS.ed25519)
    with pytest.raises(FormatError):
        cosign(TREE, ORIGIN, KeyKind.ED25519, bytes(32), 1)
    with pytest.raises(FormatError):
        cosign(TREE, ORIGIN, M6, bytes(31), 1)
    with pytest.raises(FormatError):
        cosign(TREE, "n" * 256, M6, bytes(32), 1)


def test_witnesses_are_counted_by_the_policy():
    first, second = cosign(TREE, *W1, 1), cosign(TREE, *W2, 2)
    refused("below_policy", RAW, policy=POLICY)
    refused("below_policy", NOTE.with_signatures([first]).encode(), policy=POLICY)
    both = open_checkpoint(NOTE.with_signatures([first, second]).encode(), KEYS, POLICY)
    assert both.witnesses == {"one", "two"}
    one = open_checkpoint(NOTE.with_signatures([second]).encode(), KEYS, EITHER)
    assert one.witnesses == {"two"}
    assert one.timestamp_seconds == 1_700_000_000
    stranger = cosign(TREE, "stranger", E4, b"9" * 32, 1)
    refused("below_policy", NOTE.with_signatures([stranger]).encode(), policy=EITHER)
    broken = SignatureLine(first.name, first.key_id, first.signature[:-1] + b"\0")
    refused("checkpoint_invalid", NOTE.with_signatures([second, broken]).encode(), policy=EITHER)
    refused("checkpoint_invalid", NOTE.with_signatures([first, first]).encode(), policy=EITHER)
    open_checkpoint(NOTE.with_signatures([broken]).encode(), KEYS)  # without a policy it is unknown


def test_a_policy_that_lists_other_logs_is_not_met():
    other = LogSigner("other.example", b"o" * 32, b"o" * 32).keys()
    policy = parse_policy(f"log {other.ed25519.encode()}\nquorum none\n".encode())
    refused("below_policy", RAW, policy=policy)
    for key in (KEYS.ed25519, KEYS.mldsa44):
        open_checkpoint(RAW, KEYS, parse_policy(f"log {key.encode()}\nquorum none\n".encode()))
    open_checkpoint(RAW, KEYS, parse_policy(b"quorum none\n"))


def test_the_log_is_no_witness_of_itself():
    own = parse_policy(f"witness self {KEYS.mldsa44.encode()}\nquorum self\n".encode())
    refused("below_policy", RAW, policy=own)
    alias = witness_key("alias.example", E4, SIGNER.ed25519_seed)
    line = cosign(TREE, "alias.example", E4, SIGNER.ed25519_seed, 1)
    policy = parse_policy(f"witness alias {alias.encode()}\nquorum alias\n".encode())
    refused("below_policy", NOTE.with_signatures([line]).encode(), policy=policy)


def test_logs_of_other_software():
    signer = NoteSigner("Foreign", b"f" * 32)
    text = (
        "foreign.example/log\n7\n" + base64.b64encode(bytes(32)).decode() + "\nextension one\nextension two\n"
    )
    data = Note(text, (signer.sign(text),)).encode()
    opened = open_foreign_checkpoint(data, [KEYS.ed25519, signer.key()])
    assert opened.checkpoint.extensions == ("extension one", "extension two")
    assert (opened.checkpoint.size, opened.timestamp_seconds) == (7, 0)
    assert opened.checkpoint.text() == text
    with pytest.raises(IntegrityError):
        open_foreign_checkpoint(data, [KEYS.ed25519])
    with pytest.raises(IntegrityError):
        open_foreign_checkpoint(data, [])
    opened = open_foreign_checkpoint(RAW, [KEYS.mldsa44])
    assert opened.timestamp_seconds == 1_700_000_000
    broken = replace(ED, signature=bytes(64))
    with pytest.raises(IntegrityError) as caught:
        open_foreign_checkpoint(Note(NOTE.text, (broken, PQ)).encode(), [KEYS.ed25519, KEYS.mldsa44])
    assert caught.value.code == "checkpoint_invalid"
    open_foreign_checkpoint(Note(NOTE.text, (broken, PQ)).encode(), [KEYS.mldsa44])


origins = st.text(st.characters(codec="utf-8", min_codepoint=32), min_size=1, max_size=20)
checkpoints = st.builds(
    Checkpoint,
    origins,
    st.integers(1, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(origins, max_size=2).map(tuple),
)


@given(checkpoints)
def test_texts_read_back(checkpoint):
    assert parse_checkpoint_text(checkpoint.text(), allow_extensions=True) == checkpoint
    if checkpoint.extensions:
        with pytest.raises(FormatError):
            parse_checkpoint_text(checkpoint.text())


@given(st.text("a1\n0=A", max_size=70))
def test_any_text_is_refused_or_canonical(text):
    try:
        checkpoint = parse_checkpoint_text(text, allow_extensions=True)
    except FormatError:
        return
    assert checkpoint.text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        f"o\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"o\n\n{ROOT}\n",
        f"o\n01\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n1_0\n{ROOT}\n",
        f"o\n 1\n{ROOT}\n",
        f"o\n\u0661\n{ROOT}\n",
        f"o\n{2**63}\n{ROOT}\n",
        f"o\n{10**19}\n{ROOT}\n",
        f"o\n0\n{ROOT}\n",
        f"o\n1\n{ROOT[:-1]}\n",
        f"o\n1\n{ROOT[:-2]}B=\n",
        f"o\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"o\n1\n{ROOT}\n\n",
        f"o\n1\n{ROOT}\nx\n\n",
        f"o\r\n1\n{ROOT}\n",
        "o\n1\n",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(FormatError):
        parse_checkpoint_text(text, allow_extensions=True)


def test_the_empty_log_has_one_checkpoint():
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert open_checkpoint(SIGNER.sign(empty, 0), KEYS).checkpoint == empty


def test_values_that_make_no_sense_are_refused():
    with pytest.raises(FormatError):
        SIGNER.sign(replace(TREE, origin="other"), 1)
    with pytest.raises(FormatError):
        SIGNER.sign(replace(TREE, extensions=("x",)), 1)
    for change in ({"size": -1}, {"size": 2**63}, {"root": b""}, {"origin": "a\nb"}, {"extensions": ("",)}):
        with pytest.raises(FormatError):
            replace(TREE, **change)
    with pytest.raises(FormatError):
        LogKeys(ORIGIN, KEYS.mldsa44, KEYS.ed25519)
    with pytest.raises(FormatError):
        LogKeys("other", KEYS.ed25519, KEYS.mldsa44)
    for seeds in ((b"", bytes(32)), (bytes(32), b"")):
        with pytest.raises(FormatError):
            LogSigner(ORIGIN, *seeds)
    with pytest.raises(FormatError):
        LogSigner("a b", bytes(32), bytes(32))
    assert repr(SIGNER.mldsa44_seed) not in repr(SIGNER)


def test_the_keys_travel_as_text():
    for key in (KEYS.ed25519, KEYS.mldsa44):
        assert parse_vkey(key.encode()) == key


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(at, change):
    bad = bytearray(RAW)
    bad[at] ^= change
    with pytest.raises((FormatError, IntegrityError)):
        open_checkpoint(bytes(bad), KEYS)
