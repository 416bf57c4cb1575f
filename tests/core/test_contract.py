"""Chains, receipts, the agents' contract, key files: what holds is accepted, each defect refused."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen import api, canonical, chain, envelope, errors, keyfile, region, statement, verdict
from duramen.checkpoint import Checkpoint, LogSigner
from duramen.errors import ConfigurationError, FormatError, IntegrityError
from duramen.merkle import EMPTY_ROOT, consistency_proof, inclusion_proof, leaf_hash, root_of
from duramen.names import ZERO_DIGEST
from duramen.receipt import InclusionProof, Receipt, parse_receipt, verify_receipt
from duramen.statement import Block, BlockKind

_spec = importlib.util.spec_from_file_location(
    "vector_generator", Path(__file__).parent.parent / "vectors" / "generate.py"
)
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)
SEALER = generate.Sealer(generate.kept_envelope)
BLOCKS = [block for block, _ in SEALER.frames]
SIGNER = generate.SIGNER
OTHER_SIGNER = LogSigner(generate.ORIGIN, bytes(32), bytes(32))


def states():
    found = [chain.begin(BLOCKS[0])]
    for block in BLOCKS[1:]:
        found.append(chain.advance(found[-1], block))
    return found


def resigned(index, **changes):
    """Block ``index`` with other fields, signed by the right key."""
    key = generate.Ratchet(0, generate.fixed("seed")).forward_to(index)
    header = replace(BLOCKS[index].header, **changes)
    encoded = header.encode()
    return Block(header, encoded, key.sign(statement.block_message(encoded)))


@pytest.mark.parametrize(
    ("after", "block", "code"),
    [
        (1, BLOCKS[3], "gap"),
        (2, BLOCKS[2], "replay"),
        (2, BLOCKS[1], "replay"),
        (1, BLOCKS[0], "link_broken"),
        (1, resigned(2, chain=b"x" * 32), "link_broken"),
        (1, resigned(2, prev=b"x" * 32), "link_broken"),
        (1, resigned(2, start=9), "header_corrupt"),
        (1, resigned(2, dek=b"x" * 16), "header_corrupt"),
        (1, resigned(2, group=9), "header_corrupt"),
        (1, resigned(2, step=1), "header_corrupt"),
        (1, Block(BLOCKS[2].header, BLOCKS[2].header_bytes, bytes(64)), "signature_invalid"),
        (1, Block(BLOCKS[2].header, BLOCKS[2].header_bytes, BLOCKS[3].signature), "signature_invalid"),
    ],
)
def test_chain_refuses(after, block, code):
    with pytest.raises(IntegrityError) as caught:
        chain.advance(states()[after], block)
    assert caught.value.code == code


def test_a_data_key_is_introduced_once():
    state = states()[1]
    again = resigned(2, kind=BlockKind.KEYS, count=0, root=EMPTY_ROOT, step=0)
    with pytest.raises(IntegrityError, match="second time"):
        chain.advance(state, again)


def test_a_chain_begins_with_a_signed_genesis():
    with pytest.raises(IntegrityError) as caught:
        chain.begin(BLOCKS[1])
    assert caught.value.code == "gap"
    with pytest.raises(IntegrityError) as caught:
        chain.begin(Block(BLOCKS[0].header, BLOCKS[0].header_bytes, bytes(64)))
    assert caught.value.code == "signature_invalid"


def test_bodies_are_held_to_their_headers():
    block, sealed = SEALER.frames[2]
    chain.check_body(block, sealed)
    for other in (sealed + b"x", sealed[:-1], b"x" * len(sealed)):
        with pytest.raises(IntegrityError) as caught:
            chain.check_body(block, other)
        assert caught.value.code == "body_corrupt"


def test_data_keys_expire_by_the_clock_either_way():
    use = chain.DataKeyUse(b"d" * 16, 0, 10**18)
    assert not chain.key_expired(use, 10**18 + 1)
    assert chain.key_expired(use, 10**18 + 24 * 3600 * 10**9)
    assert chain.key_expired(use, 10**18 - 1)


ENTRIES = [block.entry for block in BLOCKS]
LEAVES = [leaf_hash(entry) for entry in [*ENTRIES, b"other 1", b"other 2"]]
SEEN = (3, root_of(LEAVES[:3]))


def receipt(size=7, old=SEEN[0], first=2, count=2, signer=SIGNER):
    note = signer.sign(Checkpoint(generate.ORIGIN, size, root_of(LEAVES[:size])), 1_750_000_000)
    return Receipt(
        checkpoint=note,
        old_size=old,
        consistency=tuple(consistency_proof(old, LEAVES[:size])) if old else (),
        first=first,
        proofs=tuple(
            InclusionProof(index, tuple(inclusion_proof(index, LEAVES[:size])))
            for index in range(first, first + count)
        ),
    )


def test_receipt_holds_and_travels():
    made = receipt()
    assert parse_receipt(made.to_json()) == made
    signed = verify_receipt(made, ENTRIES[2:4], SIGNER.keys(), *SEEN)
    assert signed.checkpoint.size == 7
    fresh = receipt(old=0)
    assert verify_receipt(fresh, ENTRIES[2:4], SIGNER.keys(), 0, ZERO_DIGEST).checkpoint.size == 7


@pytest.mark.parametrize(
    ("made", "statements", "seen", "code"),
    [
        (receipt(), ENTRIES[1:3], SEEN, "tree_mismatch"),
        (receipt(), [ENTRIES[2], b"forged"], SEEN, "tree_mismatch"),
        (receipt(signer=OTHER_SIGNER), ENTRIES[2:4], SEEN, "checkpoint_invalid"),
        (receipt(), ENTRIES[2:4], (8, b"r" * 32), "checkpoint_rollback"),
        (receipt(), ENTRIES[2:4], (3, b"r" * 32), "equivocation"),
        (replace(receipt(), consistency=()), ENTRIES[2:4], SEEN, "equivocation"),
        (replace(receipt(), proofs=receipt().proofs[::-1]), ENTRIES[3:1:-1], SEEN, "order"),
        (
            replace(receipt(), proofs=(receipt().proofs[0], replace(receipt().proofs[1], hashes=()))),
            ENTRIES[2:4],
            SEEN,
            "tree_mismatch",
        ),
    ],
)
def test_receipt_refuses(made, statements, seen, code):
    with pytest.raises(IntegrityError) as caught:
        verify_receipt(made, statements, SIGNER.keys(), *seen)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("made", "statements", "seen"),
    [
        (receipt(), ENTRIES[2:5], SEEN),
        (receipt(), ENTRIES[2:4], (4, root_of(LEAVES[:4]))),
        (replace(receipt(old=0), consistency=(b"x" * 32,)), ENTRIES[2:4], (0, ZERO_DIGEST)),
    ],
)
def test_receipt_for_another_question_is_a_format_error(made, statements, seen):
    with pytest.raises(FormatError):
        verify_receipt(made, statements, SIGNER.keys(), *seen)


def test_empty_log_has_the_empty_root():
    empty = Receipt(SIGNER.sign(Checkpoint(generate.ORIGIN, 0, EMPTY_ROOT), 1), 0, (), 0, ())
    assert verify_receipt(empty, [], SIGNER.keys(), 0, ZERO_DIGEST).checkpoint.size == 0


@pytest.mark.parametrize(
    "change",
    [
        {"proofs": [[]]},
        {"proofs": ["x"]},
        {"proofs": [[-1]]},
        {"proofs": [[1, "AAAA"]]},
        {"consistency": ["!"]},
        {"consistency": [7]},
        {"consistency": ["A" * 42 + "B="]},
        {"first": -1},
        {"extra": 1},
    ],
)
def test_receipt_json_is_strict(change):
    with pytest.raises(FormatError):
        parse_receipt({**receipt().to_json(), **change})


JOIN = api.JoinString("acme", "web-1", ("https://c1:8443",), "-----BEGIN", ("a", "b"), "token")
HASH = b"h" * 32
CASES = [
    (api.EnrollRequest("t", "csr", b"genesis"), api.parse_enroll_request),
    (api.EnrollAnswer("pem", HASH), api.parse_enroll_answer),
    (api.HeadAnswer(5, HASH, -1, HASH), api.parse_head_answer),
    (api.HeadAnswer(5, HASH, 4, HASH), api.parse_head_answer),
    (
        api.EnvelopeUpload(((HASH, envelope.wrap(bytes(32), generate.READER.recipient, SEALER.context)),)),
        api.parse_envelope_upload,
    ),
    (api.Heartbeat(6, HASH, HASH, bytes(64), 2, 7), api.parse_heartbeat),
    (api.ProgressAnswer(5, -1), api.parse_progress_answer),
    (api.ProgressAnswer(5, 4, receipt(), (b"d" * 16,), HASH), api.parse_progress_answer),
    (api.Problem(409, "fork", "do this"), api.parse_problem),
    (api.Problem(409, "gap", "do this", 7, HASH, HASH), api.parse_problem),
]


@pytest.mark.parametrize(("value", "parse"), CASES)
def test_contract_round_trip(value, parse):
    assert parse(value.encode()) == value


@pytest.mark.parametrize(("value", "parse"), CASES)
@given(data=st.data())
def test_contract_is_strict(value, parse, data):
    fields = canonical.read(value.encode(), "it")
    key = data.draw(st.sampled_from(sorted(fields)))
    broken = data.draw(st.sampled_from(["drop", "null", "extra", "cut"]))
    if broken == "drop":
        del fields[key]
    elif broken == "null":
        fields[key] = None
    elif broken == "extra":
        fields["stranger"] = 1
    encoded = canonical.encode(fields)
    if broken == "cut":
        encoded = encoded[:-1]
    optional = {"receipt", "want", "nonce", "accepted_seq"}
    if broken == "drop" and key in optional:
        return
    with pytest.raises(FormatError):
        parse(encoded)


def test_join_string_travels_in_one_line():
    text = JOIN.encode()
    assert text.split() == [text]
    assert api.parse_join_string(f"  {text}\n") == JOIN


@pytest.mark.parametrize(
    "text", ["", "duramen-join-2.", JOIN.encode()[:-9], JOIN.encode() + "é", JOIN.encode() + "A" * 70_000]
)
def test_join_string_refuses(text):
    with pytest.raises(FormatError):
        api.parse_join_string(text)


def test_join_string_wants_two_keys():
    with pytest.raises(FormatError, match="two log keys"):
        api.parse_join_string(replace(JOIN, log_keys=("a",)).encode())
    with pytest.raises(FormatError):
        api.parse_join_string(replace(JOIN, collectors=()).encode())


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (api.parse_problem, b'{"type":"about:blank","title":"x","status":404,"detail":"x"}'),
        (api.parse_problem, b"<html>"),
        (api.parse_envelope_upload, b'{"envelopes":{}}'),
        (api.parse_envelope_upload, b'{"envelopes":{"x":"AA=="}}'),
        (api.parse_envelope_upload, b'{"envelopes":{"' + b"a" * 64 + b'":"!!"}}'),
        (api.parse_envelope_upload, b'{"envelopes":{"' + b"a" * 64 + b'":"AB=="}}'),
        (api.parse_progress_answer, b'{"accepted_seq":1,"published_seq":1,"want":["x"]}'),
        (api.parse_progress_answer, b'{"accepted_seq":1,"published_seq":-2}'),
        (api.parse_head_answer, b'{"a":1,"a":2}'),
    ],
)
def test_contract_refuses(parse, data):
    with pytest.raises(FormatError):
        parse(data)


def test_paths():
    assert api.enroll_path() == "/v1/enroll"
    assert api.chain_path(b"\xab" * 32, "head") == f"/v1/chains/{'ab' * 32}/head"
    assert region.kept_checkpoint_key(7) == "checkpoints/7"
    assert region.envelope_key("acme", b"\1" * 16, b"\2" * 32) == f"envelopes/acme/{'01' * 16}/{'02' * 32}"


def test_key_files():
    key = generate.READER
    data = keyfile.seal_private(key, "correct horse", bytes(16), bytes(12), n=2)
    assert keyfile.open_private(data, "correct horse").seed == key.seed
    with pytest.raises(ConfigurationError):
        keyfile.open_private(data, "wrong")
    for old, new in (
        (b'"n":2', b'"n":3'),
        (b'"n":2', b'"n":1048577'),
        (b'"r":8', b'"r":9'),
        (b"scrypt", b"argon2"),
        (b'"public":"', b'"public":"!'),
        (b'"salt":"00', b'"salt":"0'),
    ):
        with pytest.raises(FormatError):
            keyfile.open_private(data.replace(old, new), "correct horse")


def test_recipients_files():
    named = keyfile.NamedRecipient("security", generate.READER.recipient)
    line = named.encode()
    assert keyfile.parse_recipients(f"# ours\n\n{line}\n") == (named,)
    for text in (
        "",
        "# nobody\n",
        f"{line}\n{line}\n",
        "duramen-reader x !\n",
        "age1 x y\n",
        "duramen-reader é AA==\n",
    ):
        with pytest.raises(FormatError):
            keyfile.parse_recipients(text)


def test_every_error_knows_its_exit_code_and_status():
    found = [errors.DuramenError, *errors.DuramenError.__subclasses__()]
    assert {error.exit_code for error in found} == {2, 64, 65, 69, 70, 74, 78}
    assert all(400 <= error.http_status <= 599 for error in found)


def test_verdicts():
    def finding(severity):
        return verdict.Finding(
            verdict.Code.GAP, severity, "it", tenant="acme", chain="ab", seq=0, leaf=1, region="eu"
        )

    assert verdict.judge([]) is verdict.Verdict.VERIFIED
    assert verdict.judge([finding(verdict.Severity.NOTE)]) is verdict.Verdict.VERIFIED
    assert verdict.judge([finding(verdict.Severity.WARNING)]) is verdict.Verdict.INCOMPLETE
    both = [finding(verdict.Severity.WARNING), finding(verdict.Severity.FAILURE)]
    assert verdict.judge(both) is verdict.Verdict.FAILED
    assert finding(verdict.Severity.NOTE).to_json() == {
        "code": "gap",
        "severity": "note",
        "detail": "it",
        "tenant": "acme",
        "chain": "ab",
        "seq": 0,
        "leaf": 1,
        "region": "eu",
    }
