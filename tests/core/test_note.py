import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen.errors import FormatError, IntegrityError
from duramen.limits import NOTE_MAX_BYTES
from duramen.note import (
    KeyKind,
    Note,
    NoteSigner,
    SignatureLine,
    VerifierKey,
    parse_base64,
    parse_note,
    parse_skey,
    parse_vkey,
    verify_text,
)

PUBLISHED = Path(__file__).parents[1] / "vectors" / "published"
NOTES = json.loads((PUBLISHED / "notes.json").read_text())

names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"], exclude_characters="+"),
    min_size=1,
    max_size=20,
)
lines = st.builds(SignatureLine, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80))
texts = st.text(st.characters(codec="utf-8", min_codepoint=32) | st.just("\n"), max_size=60).map(
    lambda text: text + "\n"
)
notes = st.builds(Note, texts, st.lists(lines, min_size=1, max_size=5).map(tuple))
signers = st.builds(NoteSigner, names, st.binary(min_size=32, max_size=32))


def published_note(key):
    return (PUBLISHED / key["file"]).read_bytes()


def test_published_notes_verify():
    example = NOTES["c2sp_example"]
    for data, vkey in (
        (published_note(example), example["vkey"]),
        (published_note(NOTES), NOTES["peter"]["vkey"]),
        (published_note(NOTES), NOTES["enoch"]["vkey"]),
    ):
        note, key = parse_note(data), parse_vkey(vkey)
        assert note.encode() == data
        assert key.encode() == vkey
        (line,) = [line for line in note.signatures if key.matches(line)]
        verify_text(note.text, line, key)
        with pytest.raises(IntegrityError):
            verify_text(note.text + "\n", line, key)


@pytest.mark.parametrize("name", ["peter", "tessera_log"])
def test_published_signer_keys(name):
    pair = NOTES[name]
    signer = parse_skey(pair["skey"])
    assert signer.key().encode() == pair["vkey"]
    assert signer.encode() == pair["skey"]
    assert pair["skey"] not in repr(signer)
    assert repr(signer.seed) not in repr(signer)


def test_a_published_note_is_signed_again():
    data = published_note(NOTES)
    signer = parse_skey(NOTES["peter"]["skey"])
    note = parse_note(data)
    assert signer.sign(note.text) == note.signatures[0]
    assert Note(note.text, (signer.sign(note.text),)).with_signatures(note.signatures[1:]).encode() == data


@pytest.mark.parametrize("text", NOTES["bad_vkeys"])
def test_published_bad_keys_are_refused(text):
    with pytest.raises(FormatError):
        parse_vkey(text)


def test_other_bad_keys_are_refused():
    good = NOTES["peter"]["vkey"]
    name, key_id, material = good.split("+", 2)
    raw = base64.b64decode(material)
    small = VerifierKey(name, KeyKind.ED25519, raw[1:])
    object.__setattr__(small, "public", (1).to_bytes(32, "little"))
    higher = VerifierKey(name, KeyKind.ED25519, raw[1:])
    object.__setattr__(higher, "public", (2**255 - 1).to_bytes(32, "little"))
    for bad in (
        "",
        "+",
        "++",
        name,
        f"{name}+{key_id}",
        f"{name}+{key_id}+",
        f"+{key_id}+{material}",
        f"{name}x+{key_id}+{material}",
        f"{name}+{key_id.upper()}+{material}",
        f"{name}+{key_id}0+{material}",
        f"{name}+{key_id[:-1]}+{material}",
        f"{name}+00000000+{material}",
        f"{name}+{key_id}+{material} ",
        f" {good}",
        f"{good}\n",
        f"Peter Neumann+{key_id}+{material}",
        f"{name}+{key_id}+{material[:-4]}",
        small.encode(),
        higher.encode(),
        VerifierKey(name, KeyKind.COSIGNATURE_MLDSA44, bytes(1312)).encode()[:-4],  # truncated
    ):
        with pytest.raises(FormatError):
            parse_vkey(bad)
    for length in (0, 1311, 1313):
        with pytest.raises(FormatError):
            VerifierKey(name, KeyKind.COSIGNATURE_MLDSA44, bytes(length))


def test_bad_signer_keys_are_refused():
    good = NOTES["peter"]["skey"]
    vkey = NOTES["peter"]["vkey"]
    seed = base64.b64decode(good.split("+", 4)[4])
    prefix = "+".join(good.split("+", 4)[:4])
    for bad in (
        "",
        vkey,
        good.lower(),
        good[:-1],
        good + "=",
        good.replace("c74f20a3", "c74f20a4"),
        f"{prefix}+" + base64.b64encode(b"\x02" + seed[1:]).decode(),
        f"{prefix}+" + base64.b64encode(seed + b"\0").decode(),
        f"{prefix}+",
    ):
        with pytest.raises(FormatError) as caught:
            parse_skey(bad)
        assert "AYEK" not in str(caught.value)


@given(notes)
def test_notes_read_back(note):
    assert parse_note(note.encode()) == note


@given(notes, st.data())
def test_a_damaged_note_is_refused_or_another_note(note, data):
    raw = bytearray(note.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = parse_note(bytes(raw))
    except FormatError:
        return
    assert other != note
    assert other.encode() == raw


@given(st.binary(max_size=100) | st.binary(max_size=40).map(lambda tail: "a\n\n— b ".encode() + tail))
def test_any_bytes_are_refused_or_canonical(data):
    try:
        note = parse_note(data)
    except FormatError:
        return
    assert note.encode() == data


@given(signers, texts)
def test_keys_read_back_and_verify(signer, text):
    key = signer.key()
    assert parse_vkey(key.encode()) == key
    assert parse_skey(signer.encode()) == signer
    line = signer.sign(text)
    verify_text(text, line, key)
    for bad in (
        SignatureLine(line.name, line.key_id, line.signature[:-1]),
        SignatureLine(line.name, line.key_id, line.signature + b"\0"),
        SignatureLine(line.name + "x", line.key_id, line.signature),
    ):
        with pytest.raises(IntegrityError) as caught:
            verify_text(text, bad, key)
        assert caught.value.code == "signature_invalid"


@given(names, st.sampled_from(KeyKind), st.binary(min_size=1312, max_size=1312))
def test_verifier_keys_of_every_kind_read_back(name, kind, material):
    public = material if kind is KeyKind.COSIGNATURE_MLDSA44 else bytes([7]) * 32
    key = VerifierKey(name, kind, public)
    assert parse_vkey(key.encode()) == key


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        "text\n— n AAAAAAA=\n".encode(),
        "text\n\n— n AAAAAAA=".encode(),
        "text\n\n— n AAAAAAA=X".encode(),
        "text\n\n— n AAAAAAA=\n\n".encode(),
        b"text\n\n- n AAAAAAA=\n",
        "text\n\n— n  AAAAAAA=\n".encode(),
        "text\n\n— n AAAAAAA= \n".encode(),
        "text\n\n— n AAAAAAA\n".encode(),
        "text\n\n— n AAAAAAB=\n".encode(),
        "text\n\n— n AAAAAA==\n".encode(),
        "text\n\n— n AAA-AAA=\n".encode(),
        "text\n\n—  AAAAAAA=\n".encode(),
        "text\n\n— a+b AAAAAAA=\n".encode(),
        "text\n\n— a\u2003b AAAAAAA=\n".encode(),
        "text\n\n— AAAAAAA=\n".encode(),
        "text\n\n—n AAAAAAA=\n".encode(),
        "te\txt\n\n— n AAAAAAA=\n".encode(),
        "te\0xt\n\n— n AAAAAAA=\n".encode(),
        "text\r\n\r\n— n AAAAAAA=\r\n".encode(),
        b"te\xffxt\n\n" + "— n AAAAAAA=\n".encode(),
        b"te\xed\xa0\x80xt\n\n" + "— n AAAAAAA=\n".encode(),
        b"text\n\n" + "— n AAAAAAA=\n".encode() * 33,
        b"x" * NOTE_MAX_BYTES + "\n\n— n AAAAAAA=\n".encode(),
    ],
)
def test_malformed_notes_are_refused(data):
    with pytest.raises(FormatError):
        parse_note(data)


def test_as_many_signatures_as_the_limit_are_read():
    assert len(parse_note(b"text\n\n" + "— n AAAAAAA=\n".encode() * 32).signatures) == 32


def test_the_last_blank_line_ends_the_text():
    note = parse_note("a\n\n— fake AAAAAAA=\n\n— n AAAAAAA=\n".encode())
    assert note.text == "a\n\n— fake AAAAAAA=\n"
    assert [line.name for line in note.signatures] == ["n"]


def test_values_that_cannot_be_encoded_are_refused():
    line = SignatureLine("n", bytes(4), b"x")
    for text in ("", "no end", "a\tb\n"):
        with pytest.raises(FormatError):
            Note(text, (line,))
    for signatures in ((), (line,) * 33):
        with pytest.raises(FormatError):
            Note("text\n", signatures)
    for name, key_id, signature in (("n", bytes(3), b"x"), ("n", bytes(4), b""), ("a b", bytes(4), b"x")):
        with pytest.raises(FormatError):
            SignatureLine(name, key_id, signature)
    for name in ("", "a+b", "a\nb", "a\u00a0b", "\ud800"):
        with pytest.raises(FormatError):
            NoteSigner(name, bytes(32))
    with pytest.raises(FormatError):
        NoteSigner("n", bytes(31))
    with pytest.raises(FormatError):
        Note("\ud800\n", (line,)).encode()
    with pytest.raises(FormatError):
        NoteSigner("n", bytes(32)).sign("\ud800\n")
    with pytest.raises(FormatError):
        Note("x" * NOTE_MAX_BYTES + "\n", (line,)).encode()


@given(st.binary(max_size=30), st.text(max_size=8))
def test_base64_has_one_form(data, text):
    assert parse_base64(base64.b64encode(data).decode(), "it") == data
    try:
        found = parse_base64(text, "it")
    except FormatError:
        return
    assert base64.b64encode(found).decode() == text


def test_a_key_verifies_only_its_own_kind_and_lines():
    signer = NoteSigner("n", bytes(32))
    line = signer.sign("text\n")
    with pytest.raises(IntegrityError):
        verify_text("text\n", line, NoteSigner("n", bytes([1]) * 32).key())
    other = VerifierKey("n", KeyKind.COSIGNATURE_ED25519, signer.key().public)
    with pytest.raises(IntegrityError):
        verify_text("text\n", SignatureLine("n", other.key_id, line.signature), other)
