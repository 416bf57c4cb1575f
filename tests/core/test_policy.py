import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen.ed25519 import public_from_seed
from duramen.errors import FormatError
from duramen.note import KeyKind, VerifierKey
from duramen.policy import POLICY_MAX_BYTES, parse_policy


def vkey(number, kind=KeyKind.COSIGNATURE_ED25519, name="w.example"):
    return VerifierKey(name, kind, public_from_seed(number.to_bytes(32, "big"))).encode()


LOG = vkey(0, KeyKind.ED25519, "log.example")
EXAMPLE = f"""
log {LOG}

witness X1 {vkey(1)}
witness X2 {vkey(2)}
witness X3 {vkey(3)}
group X-witnesses 2 X1 X2 X3

  # a comment, and blanks of both kinds
witness\tY1 \t {vkey(4)} https://y1.example/\t
witness Y2 {vkey(5)}
witness Y3 {vkey(6)}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def test_the_example_of_the_specification():
    policy = parse_policy(EXAMPLE.encode())
    assert [log.key.encode() for log in policy.logs] == [LOG]
    assert [witness.name for witness in policy.witnesses] == ["X1", "X2", "X3", "Y1", "Y2", "Y3"]
    assert [witness.url for witness in policy.witnesses][3] == "https://y1.example/"
    names = [witness.name for witness in policy.witnesses]
    for size in range(7):
        for chosen in itertools.combinations(names, size):
            xs, ys = (sum(name[0] == letter for name in chosen) for letter in "XY")
            assert policy.satisfied_by(set(chosen)) == (xs >= 2 and ys >= 1)
    assert not policy.satisfied_by({"X-and-Y", "X-witnesses", "Y-witnesses"})
    assert not policy.satisfied_by({"X1", "Y1", "stranger"})


def test_a_single_witness_and_none():
    one = parse_policy(f"witness W {vkey(1)}\nquorum W\n".encode())
    assert one.satisfied_by({"W"})
    assert not one.satisfied_by(set())
    none = parse_policy(b"quorum none\n")
    assert none.satisfied_by(set())
    assert (none.logs, none.witnesses, none.groups) == ((), (), ())


def test_names_are_octets():
    kelvin = b"\xe2\x84\xaa"
    data = b"witness K %s\nwitness %s %s\nwitness \xff %s\ngroup g all K %s \xff\nquorum g\n" % (
        vkey(1).encode(),
        kelvin,
        vkey(2).encode(),
        vkey(3).encode(),
        kelvin,
    )
    policy = parse_policy(data)
    assert len({witness.name for witness in policy.witnesses}) == 3
    assert policy.satisfied_by({witness.name for witness in policy.witnesses})
    assert not policy.satisfied_by({"K", "\udcff"})


W = f"witness W {vkey(1)}\n"
V = f"witness V {vkey(2)}\n"
PQ = VerifierKey("pq", KeyKind.COSIGNATURE_MLDSA44, bytes(1312)).encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "quorum none",
        "quorum none\nquorum none\n",
        "quorum\n",
        "quorum none x\n",
        "Quorum none\n",
        "quorum W\n" + W,
        "quorum W\n",
        W + W + "quorum none\n",
        W + f"witness V {vkey(1)}\nquorum none\n",
        W + f"witness V {vkey(1, name='other.name')}\nquorum none\n",
        W + f"witness W {vkey(2)}\nquorum none\n",
        f"witness none {vkey(1)}\nquorum none\n",
        f"witness W {LOG}\nquorum none\n",
        f"witness {vkey(1)}\nquorum none\n",
        f"witness W {vkey(1)} url more\nquorum none\n",
        f"witness W {vkey(1)}x\nquorum none\n",
        f"log {vkey(1)}\nquorum none\n",
        f"log {LOG}\nlog {LOG}\nquorum none\n",
        f"log {LOG}\nlog {vkey(0, KeyKind.ED25519, 'other.name')}\nquorum none\n",
        f"log {LOG} url more\nquorum none\n",
        "log\nquorum none\n",
        W + "group g all\nquorum g\n",
        W + "group g 0 W\nquorum g\n",
        W + "group g 2 W\nquorum g\n",
        W + "group g 01 W\nquorum g\n",
        W + "group g +1 W\nquorum g\n",
        W + "group g -1 W\nquorum g\n",
        W + "group g most W\nquorum g\n",
        W + "group g any W W\nquorum g\n",
        W + "group g any X\nquorum g\n",
        W + "group g any g\nquorum g\n",
        W + "group g any none\nquorum g\n",
        W + "group none any W\nquorum none\n",
        W + "group W any W\nquorum W\n",
        W + "group g any W\ngroup h any W\nquorum h\n",
        W + V + "group g any V\ngroup g any W\nquorum g\n",
        "quorum none\r\n",
        "quorum none\n\x00\n",
        "quorum none\n\x7f\n",
        "quorum\u00a0none\n",
    ],
)
def test_what_the_specification_does_not_allow_is_refused(text):
    with pytest.raises(FormatError):
        parse_policy(text.encode())


def test_keys_of_ml_dsa_serve_logs_and_witnesses():
    policy = parse_policy(f"log {PQ}\nwitness W {PQ}\nquorum W\n".encode())
    assert policy.logs[0].key == policy.witnesses[0].key
    with pytest.raises(FormatError, match="line 2"):
        parse_policy(f"log {PQ}\nlog {PQ}\nquorum none\n".encode())


def test_bounds():
    many = [f"witness w{number} {vkey(number)}\n" for number in range(1, 258)]
    groups = [f"group g{number} any w{number}\n" for number in range(1, 257)]
    logs = [f"log {vkey(number, KeyKind.ED25519, 'log')}\n" for number in range(1, 258)]
    parse_policy("".join([*logs[:256], *many[:256], *groups, "quorum g9\n"]).encode())
    extra = "group h any g1\n"
    for lines in (logs, many, [*many[:256], *groups, extra]):
        with pytest.raises(FormatError, match="256"):
            parse_policy("".join([*lines, "quorum none\n"]).encode())
    with pytest.raises(FormatError):
        parse_policy(b"#" * POLICY_MAX_BYTES + b"\nquorum none\n")


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_a_policy(data):
    try:
        policy = parse_policy(data)
    except FormatError:
        return
    assert policy.quorum == "none"


@given(st.data())
def test_a_damaged_policy_raises_only_the_one_error(data):
    raw = bytearray(EXAMPLE.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    try:
        parse_policy(bytes(raw))
    except FormatError:
        return
