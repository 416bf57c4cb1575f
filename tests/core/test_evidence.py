"""A bundle proves what it says, any change of it is refused, and the same request gives the same bytes."""

import io
import random
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen import canonical
from duramen.archive import encode_archive, parse_archive
from duramen.checkpoint import LogSigner
from duramen.disclosure import EvidenceRequest, build_evidence
from duramen.errors import FormatError, IntegrityError, UsageError
from duramen.evidence import report_json, verify_evidence
from duramen.policy import parse_policy
from duramen.statementjson import statement_json
from duramen.wire import prefixed
from tests.core.builder import LogBuilder, MemoryRegion, Source, sample


@pytest.fixture(scope="module")
def log():
    return sample()


def bundle(log, first=2, last=3, agent="web-1", reader=0, **options):
    request = EvidenceRequest(log.agents[agent].state.chain, first, last, **options)
    return build_evidence(MemoryRegion(log.objects), "acme", log.keys, request, log.readers[reader])


@pytest.mark.parametrize("whole", [False, True])
def test_bundle_proves_its_blocks(log, whole):
    data = bundle(log, whole_lineage=whole)
    report = verify_evidence(data, log.keys)
    assert report.agent == "web-1"
    assert report.tenant == "acme"
    assert [item.block.header.seq for item in report.blocks] == [2, 3]
    raw = [raw for item in report.blocks for _, _, raw in item.payload.runs]
    assert raw == [b"GET /0/0\nGET /0/1\nGET /0/2\n", b"GET /1/0\nGET /1/1\nGET /1/2\n"]
    assert [run.path for item in report.blocks for run, _, _ in item.payload.runs] == [
        b"/var/log/access.log"
    ] * 2
    assert report.is_whole_lineage is whole
    assert not report.is_genesis_pinned
    assert any("--genesis" in line for line in report.not_proven)
    assert any("descend" in line for line in report.not_proven) is not whole
    value = report_json(report)
    assert value["blocks"][0]["runs"][0]["lines"] == 3
    assert value["verdict"] == "verified"


def test_same_request_same_bytes(log):
    assert bundle(log) == bundle(log)
    assert bundle(log) == bundle(log, reader=1)


def test_other_kinds_of_blocks(log):
    report = verify_evidence(bundle(log, 0, 1, whole_lineage=True), log.keys)
    assert report.blocks[0].block.header.genesis is not None
    assert len(report.blocks[1].key_list.envelopes) == 2
    report = verify_evidence(bundle(log, 0, 5, agent="cron-1"), log.keys)
    assert all(item.payload is None for item in report.blocks)
    assert any("no records" in line for line in report.proven)


def test_genesis_pin(log):
    data = bundle(log)
    chain = log.agents["web-1"].state.chain
    report = verify_evidence(data, log.keys, genesis=chain)
    assert report.is_genesis_pinned
    assert not any("--genesis" in line for line in report.not_proven)
    with pytest.raises(IntegrityError, match="pinned"):
        verify_evidence(data, log.keys, genesis=log.agents["db-1"].state.chain)


def test_wrong_log_keys(log):
    with pytest.raises(IntegrityError) as caught:
        verify_evidence(bundle(log), LogBuilder(99).keys)
    assert caught.value.code == "checkpoint_invalid"


def test_policy(log):
    text = b"quorum none\n"
    data = bundle(log, policy=text)
    assert parse_archive(data)["policy"] == text
    verify_evidence(data, log.keys)
    witness = LogSigner("witness.example", bytes([1] * 32), bytes([2] * 32)).keys().mldsa44
    demanding = parse_policy(f"witness w {witness.encode()}\nquorum w\n".encode())
    with pytest.raises(IntegrityError) as caught:
        verify_evidence(data, log.keys, demanding)
    assert caught.value.code == "below_policy"


@pytest.mark.parametrize("whole", [False, True])
def test_every_entry_matters(log, whole):
    """Each file of the bundle, changed, removed, or put under another's name."""
    files = parse_archive(bundle(log, whole_lineage=whole, policy=b"quorum none\n"))
    rng = random.Random(5)
    for name, content in files.items():
        if name == "policy":
            continue  # what the maker went by; a verifier brings its own
        others = [{key: value for key, value in files.items() if key != name}]
        for _ in range(12):
            at = rng.randrange(len(content))
            changed = content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
            others.append({**files, name: changed})
        others += [{**files, name: content + b"\0"}, {**files, name: content[:-1]}, {**files, name: b""}]
        for other in others:
            with pytest.raises((FormatError, IntegrityError)):
                verify_evidence(encode_archive(other), log.keys)
    for name, other in (("proofs/2", "proofs/3"), ("bodies/2", "bodies/3"), ("keys/2", "keys/3")):
        with pytest.raises((FormatError, IntegrityError)):
            verify_evidence(encode_archive({**files, name: files[other], other: files[name]}), log.keys)
    for extra in ("readme", "proofs/4", "keys/9", "bodies/1"):
        with pytest.raises(FormatError, match="belong"):
            verify_evidence(encode_archive({**files, extra: b"x"}), log.keys)


def test_any_flipped_byte_of_the_archive_is_refused(log):
    data = bundle(log)
    rng = random.Random(3)
    for at in rng.sample(range(len(data)), 500):
        changed = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        with pytest.raises((FormatError, IntegrityError)):
            verify_evidence(changed, log.keys)


def test_archive_is_one_any_tool_reads(log):
    data = bundle(log)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == parse_archive(data)


def test_archives_of_other_tools_are_refused(log):
    files = parse_archive(bundle(log))
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        with pytest.raises(FormatError):
            parse_archive(buffer.getvalue())


def test_bytes_around_an_archive_are_refused(log):
    data = bundle(log)
    for changed in (data + b"\0", b"\0" + data, data[:-1], data[:30], b"", data + data, data[:-22]):
        with pytest.raises(FormatError):
            parse_archive(changed)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}(/[a-z0-9]{1,3})?", fullmatch=True),
        st.binary(max_size=50),
        min_size=1,
        max_size=8,
    )
)
def test_archive_round_trip(files):
    data = encode_archive(files)
    assert parse_archive(data) == files
    assert encode_archive(dict(reversed(files.items()))) == data


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data):
    with pytest.raises(FormatError):
        parse_archive(data + b"PK\x05\x06" + data[:18])


@pytest.mark.parametrize("name", ["", "A", "../x", "/x", "x/", "x//y", ".x", "ü", "a" * 256, "x\n"])
def test_archive_names(name):
    with pytest.raises(FormatError):
        encode_archive({name: b""})
    with pytest.raises(FormatError):
        encode_archive({})


def test_duplicate_and_uncounted_entries():
    data = encode_archive({"a": b"1", "b": b"2"})
    with pytest.raises(FormatError, match="twice"):
        parse_archive(data.replace(b"b2", b"a2"))
    with pytest.raises(FormatError, match="counts"):
        parse_archive(data[:-14] + b"\x01\0\x01\0" + data[-10:])
    with pytest.raises(FormatError, match="ASCII"):
        parse_archive(data.replace(b"a1", b"\xff1"))


def test_requests_that_cannot_be_met(log):
    for first, last in ((5, 4), (-1, 2), (0, 30_000)):
        with pytest.raises(UsageError):
            bundle(log, first, last)
    with pytest.raises(UsageError, match="no sound block"):
        bundle(log, 3, 50)
    stranger = LogBuilder(77).readers[0]
    request = EvidenceRequest(log.agents["web-1"].state.chain, 2, 2)
    with pytest.raises(UsageError, match="not sealed to"):
        build_evidence(MemoryRegion(log.objects), "acme", log.keys, request, stranger)
    with pytest.raises(IntegrityError):
        build_evidence(MemoryRegion({}), "acme", log.keys, request, log.readers[0])
    missing = {key: value for key, value in log.objects.items() if not key.startswith("acme/packs/")}
    with pytest.raises(IntegrityError, match="body of block 2"):
        build_evidence(MemoryRegion(missing), "acme", log.keys, request, stranger)


def test_defects_that_only_a_liar_makes(log):
    """Each manifest, lineage or genesis that parses and says something that cannot be."""
    files = parse_archive(bundle(log, 2, 3))
    chain = log.agents["web-1"].state.chain
    entries = [block.entry for block in log.agents["web-1"].blocks]
    notice = log.entries[0]

    def lineage(*items):
        return b"".join(prefixed(item, 2) for item in items)

    def manifest(**fields):
        value = {
            "type": "duramen-evidence/v1",
            "origin": log.keys.origin,
            "chain": chain.hex(),
            "first": 2,
            "last": 3,
            "lineage": 1,
            "policy": False,
        }
        return canonical.encode({**value, **fields})

    assert manifest() == files["manifest.json"]
    for changes, match in (
        ({"manifest.json": manifest(type="other")}, "type"),
        ({"manifest.json": manifest(last=1)}, "consecutive"),
        ({"manifest.json": manifest(last=100_000)}, "consecutive"),
        ({"manifest.json": manifest(lineage=2)}, "lineage"),
        ({"manifest.json": manifest(origin="other")}, "another chain or log"),
        ({"manifest.json": manifest(policy=True)}, "policy"),
        ({"genesis": notice}, "notice"),
        ({"genesis": entries[1]}, "genesis"),
        ({"lineage": lineage(*entries[1:3])}, "last disclosed"),
        ({"lineage": b""}, "last disclosed"),
        ({"lineage": lineage(entries[1], entries[3])}, "consecutive"),
        ({"lineage": lineage(entries[1], entries[2], entries[3][:-1] + b"x")}, None),
        ({"keys/2": files["keys/2"] + b"x"}, "32 bytes"),
        ({"keys/2": files["keys/3"]}, None),
        ({"proofs/2": files["proofs/2"].replace(b"index", b"extra AAAA\nindex", 1)}, "extra"),
    ):
        with pytest.raises((FormatError, IntegrityError), match=match):
            verify_evidence(encode_archive({**files, **changes}), log.keys)
    whole = parse_archive(bundle(log, 2, 3, whole_lineage=True))
    other = log.agents["db-1"].blocks[0].entry
    with pytest.raises(IntegrityError, match="another genesis"):
        verify_evidence(encode_archive({**whole, "lineage": lineage(other, *entries[1:4])}), log.keys)


def test_genesis_of_another_log():
    log = LogBuilder(1)
    log.agent("web-1", log_hash=bytes(32)).seal([Source("s", b"/f", b"1\n")])
    log.publish()
    with pytest.raises(UsageError, match="no sound block"):
        bundle(log, 2, 2)


def test_block_of_another_chain_does_not_stand_in(log):
    """A lineage of one agent under the genesis of another."""
    one, other = (parse_archive(bundle(log, agent=name)) for name in ("web-1", "db-1"))
    for names in (("genesis", "genesis.proof"), ("genesis", "genesis.proof", "manifest.json"), ("lineage",)):
        mixed = {**one, **{name: other[name] for name in names}}
        with pytest.raises((FormatError, IntegrityError)):
            verify_evidence(encode_archive(mixed), log.keys)


def test_statement_json(log):
    genesis, keys = log.agents["web-1"].blocks[:2]
    value = statement_json(genesis)
    assert value["genesis"]["agent"] == "web-1"
    assert value["chain"] == genesis.hash.hex()
    assert statement_json(keys)["kind"] == "keys"
    assert statement_json(log.agents["cron-1"].blocks[-1])["flags"] == ["stop"]
    assert statement_json(LogBuilder().pending[0][0])["header"]["type"] == "key"
