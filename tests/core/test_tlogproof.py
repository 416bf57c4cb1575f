import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen.checkpoint import Checkpoint, LogSigner
from duramen.errors import FormatError, IntegrityError
from duramen.merkle import inclusion_proof, leaf_hash, root_of
from duramen.policy import parse_policy
from duramen.tlogproof import EXTRA_MAX_BYTES, TlogProof, parse_tlog_proof, verify_tlog_proof

SIGNER = LogSigner("logs.example.com/acme", b"a" * 32, b"b" * 32)
ENTRIES = [b"entry %d" % number for number in range(11)]
HASHES = [leaf_hash(entry) for entry in ENTRIES]
NOTE = SIGNER.sign(Checkpoint(SIGNER.origin, 11, root_of(HASHES)), 1_700_000_000)
PROOF = TlogProof(6, tuple(inclusion_proof(6, HASHES)), NOTE)
B64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


def test_every_entry_is_proven():
    for index, entry in enumerate(ENTRIES):
        proof = TlogProof(index, tuple(inclusion_proof(index, HASHES)), NOTE)
        read = parse_tlog_proof(proof.encode())
        assert read == proof
        signed = verify_tlog_proof(read, entry, SIGNER.keys())
        assert signed.checkpoint.size == 11
        for other in (entry + b"x", ENTRIES[index - 1], b""):
            with pytest.raises(IntegrityError) as caught:
                verify_tlog_proof(read, other, SIGNER.keys())
            assert caught.value.code == "tree_mismatch"


def test_the_layout():
    lines = TlogProof(6, PROOF.hashes, NOTE, b"more").encode().split(b"\n")
    assert lines[:3] == [b"c2sp.org/tlog-proof@v1", b"extra bW9yZQ==", b"index 6"]
    assert lines[3 + len(PROOF.hashes)] == b""
    assert b"\n".join(lines[4 + len(PROOF.hashes) :]) == NOTE


def test_keys_and_policy_are_demanded():
    with pytest.raises(IntegrityError) as caught:
        verify_tlog_proof(PROOF, ENTRIES[6], LogSigner(SIGNER.origin, b"x" * 32, b"b" * 32).keys())
    assert caught.value.code == "checkpoint_invalid"
    witness = f"witness w {SIGNER.keys().mldsa44.encode()}\nquorum w\n"
    with pytest.raises(IntegrityError) as caught:
        verify_tlog_proof(PROOF, ENTRIES[6], SIGNER.keys(), parse_policy(witness.encode()))
    assert caught.value.code == "below_policy"


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
    st.none() | st.binary(max_size=50),
)
def test_proofs_read_back(index, hashes, extra):
    proof = TlogProof(index, hashes, NOTE, extra)
    assert parse_tlog_proof(proof.encode()) == proof


@given(st.data())
def test_a_damaged_proof_is_refused(data):
    raw = bytearray(PROOF.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((FormatError, IntegrityError)):
        verify_tlog_proof(parse_tlog_proof(bytes(raw)), ENTRIES[6], SIGNER.keys())


@pytest.mark.parametrize(
    "head",
    [
        "",
        "c2sp.org/tlog-proof@v2\nindex 0\n",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\nindex\n",
        "c2sp.org/tlog-proof@v1\nindex \n",
        "c2sp.org/tlog-proof@v1\nindex 00\n",
        "c2sp.org/tlog-proof@v1\nindex -1\n",
        "c2sp.org/tlog-proof@v1\nindex 9223372036854775808\n",
        "c2sp.org/tlog-proof@v1\nindex 0 \n",
        "c2sp.org/tlog-proof@v1\nindex 0\nextra AA==\n",
        "c2sp.org/tlog-proof@v1\nextra AA\nindex 0\n",
        "c2sp.org/tlog-proof@v1\nextra AB==\nindex 0\n",
        "c2sp.org/tlog-proof@v1\nextra\nindex 0\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\nextra AA==\nindex 0\n",
        "c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n",
        "c2sp.org/tlog-proof@v1\nindex 0\n" + (B64 + "\n") * 64,
        "c2sp.org/tlog-proof@v1\nindex 0\n" + B64[:-2] + "B=\n",
        "c2sp.org/tlog-proof@v1\r\nindex 0\r\n",
        "\u00e9\nindex 0\n",
    ],
)
def test_malformed_proofs_are_refused(head):
    with pytest.raises(FormatError):
        parse_tlog_proof(head.encode() + b"\n" + NOTE)


def test_what_is_cut_off_or_too_large_is_refused():
    raw = PROOF.encode()
    for size in (0, 10, 40, len(raw) - len(NOTE), len(raw) - 1):
        with pytest.raises(FormatError):
            parse_tlog_proof(raw[:size])
    with pytest.raises(FormatError):
        parse_tlog_proof(raw + b"x" * 500_000)
    with pytest.raises(FormatError):
        TlogProof(0, (), NOTE, bytes(EXTRA_MAX_BYTES + 1))
    largest = TlogProof(2**63 - 1, (bytes(32),) * 63, NOTE, bytes(EXTRA_MAX_BYTES))
    assert parse_tlog_proof(largest.encode()) == largest
