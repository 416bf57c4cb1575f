import base64
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen.errors import IntegrityError, UsageError
from duramen.merkle import (
    EMPTY_ROOT,
    CompactRange,
    LeafReader,
    combine,
    compact_range_from,
    consistency_proof,
    consistency_proof_nodes,
    inclusion_proof,
    inclusion_proof_nodes,
    leaf_hash,
    node_hash,
    root_from,
    root_from_inclusion,
    root_of,
    verify_consistency,
    verify_inclusion,
)

PUBLISHED = Path(__file__).parents[1] / "vectors" / "published"
INCLUSION = json.loads((PUBLISHED / "merkle" / "inclusion.json").read_text())
CONSISTENCY = json.loads((PUBLISHED / "merkle" / "consistency.json").read_text())
ROOTS = json.loads((PUBLISHED / "rfc6962_roots.json").read_text())


def leaves(count):
    return [leaf_hash(b"%d" % number) for number in range(count)]


def defined_root(hashes):
    """MTH of RFC 6962 section 2.1, as written there."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + defined_root(hashes[:k]) + defined_root(hashes[k:])).digest()


def defined_path(m, hashes):
    """PATH of RFC 6962 section 2.1.1."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m < k:
        return [*defined_path(m, hashes[:k]), defined_root(hashes[k:])]
    return [*defined_path(m - k, hashes[k:]), defined_root(hashes[:k])]


def defined_subproof(m, hashes, complete):
    """SUBPROOF of RFC 6962 section 2.1.2."""
    if m == len(hashes):
        return [] if complete else [defined_root(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m <= k:
        return [*defined_subproof(m, hashes[:k], complete), defined_root(hashes[k:])]
    return [*defined_subproof(m - k, hashes[k:], complete=False), defined_root(hashes[:k])]


def test_the_vectors_are_all_there():
    assert len(INCLUSION) == len(CONSISTENCY) == 98


@pytest.mark.parametrize("name", INCLUSION)
def test_published_inclusion(name):
    case = INCLUSION[name]
    proof = [base64.b64decode(item) for item in case["proof"] or []]
    root, leaf = base64.b64decode(case["root"]), base64.b64decode(case["leafHash"])
    arguments = (leaf, case["leafIdx"], case["treeSize"], proof, root)
    if case["wantErr"]:
        with pytest.raises(IntegrityError) as caught:
            verify_inclusion(*arguments)
        assert caught.value.code == "tree_mismatch"
    else:
        verify_inclusion(*arguments)


@pytest.mark.parametrize("name", CONSISTENCY)
def test_published_consistency(name):
    case = CONSISTENCY[name]
    proof = [base64.b64decode(item) for item in case["proof"] or []]
    roots = [base64.b64decode(case[key]) for key in ("root1", "root2")]
    arguments = (case["size1"], roots[0], case["size2"], roots[1], proof)
    if case["wantErr"]:
        with pytest.raises(IntegrityError) as caught:
            verify_consistency(*arguments)
        assert caught.value.code == "tree_mismatch"
    else:
        verify_consistency(*arguments)


def test_published_roots_and_hashes():
    entries = [bytes.fromhex(item) for item in ROOTS["leaves_hex"]]
    hashes = [leaf_hash(entry) for entry in entries]
    growing = CompactRange()
    for size, root in enumerate(ROOTS["roots_by_size"]):
        assert root_of(hashes[:size]).hex() == growing.root().hex() == root
        if size < len(hashes):
            growing.append(hashes[size])
    for data, found in ROOTS["leaf_hash"].items():
        assert leaf_hash(bytes.fromhex(data)).hex() == found
    pair = ROOTS["node_hash"]
    assert node_hash(bytes.fromhex(pair["left"]), bytes.fromhex(pair["right"])).hex() == pair["hash"]


def test_every_small_tree_is_as_the_rfc_defines_it():
    for size in range(1, 34):
        hashes = leaves(size)
        root = root_of(hashes)
        assert root == defined_root(hashes) == root_from(LeafReader(hashes), size)
        for index in range(size):
            proof = inclusion_proof(index, hashes)
            assert proof == defined_path(index, hashes)
            verify_inclusion(hashes[index], index, size, proof, root)
        for old in range(1, size + 1):
            proof = consistency_proof(old, hashes)
            assert proof == defined_subproof(old, hashes, complete=True)
            verify_consistency(old, root_of(hashes[:old]), size, root, proof)


@given(st.integers(0, 1500), st.data())
def test_larger_trees_agree_however_they_are_built(size, data):
    hashes = leaves(size)
    cut = data.draw(st.integers(0, size))
    growing = CompactRange()
    growing.extend(hashes[:cut])
    resumed = CompactRange(growing.size, growing.nodes)
    other = growing.copy()
    resumed.extend(hashes[cut:])
    assert compact_range_from(LeafReader(hashes), cut).nodes == growing.nodes
    assert resumed.root() == root_of(hashes) == root_from(LeafReader(hashes), size)
    assert (growing.size, other.root()) == (cut, growing.root())
    if size:
        index = data.draw(st.integers(0, size - 1))
        proof = inclusion_proof(index, hashes)
        assert proof == defined_path(index, hashes)
        assert root_from_inclusion(hashes[index], index, size, proof) == resumed.root()
    if cut:
        proof = consistency_proof(cut, hashes)
        assert proof == defined_subproof(cut, hashes, complete=True)
        verify_consistency(cut, growing.root(), size, resumed.root(), proof)


@given(st.integers(2, 300), st.data())
def test_a_mutated_proof_is_refused(size, data):
    hashes = leaves(size)
    root = root_of(hashes)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, hashes)
    old = data.draw(st.integers(1, size - 1))
    steps = consistency_proof(old, hashes)
    for good, check in (
        (proof, lambda bad: verify_inclusion(hashes[index], index, size, bad, root)),
        (steps, lambda bad: verify_consistency(old, root_of(hashes[:old]), size, root, bad)),
    ):
        check(good)
        at = data.draw(st.integers(0, len(good) - 1))
        flipped = bytes([good[at][0] ^ 1]) + good[at][1:]
        for bad in (
            good[:at] + good[at + 1 :],
            [*good[:at], flipped, *good[at + 1 :]],
            [*good[:at], good[at][:-1], *good[at + 1 :]],
            [*good, good[at]],
            [good[at], *good],
        ):
            with pytest.raises(IntegrityError):
                check(bad)
    for wrong in {(index + 1) % size, index ^ 1} - {index}:
        with pytest.raises(IntegrityError):
            verify_inclusion(hashes[index], wrong, size, proof, root)


@given(st.integers(1, 2**63 - 1), st.data())
def test_proof_nodes_cover_the_tree_exactly_at_any_size(size, data):
    index = data.draw(st.integers(0, size - 1))
    covered = [(index, index + 1)]
    for nodes in inclusion_proof_nodes(index, size):
        assert [node.level for node in nodes] == sorted({node.level for node in nodes}, reverse=True)
        covered.append((nodes[0].index << nodes[0].level, (nodes[-1].index + 1) << nodes[-1].level))
    covered.sort()
    assert covered[0][0] == 0
    assert covered[-1][1] == size
    assert all(left[1] == right[0] for left, right in pairwise(covered))
    old = data.draw(st.integers(1, size))
    covered = [
        (nodes[0].index << nodes[0].level, (nodes[-1].index + 1) << nodes[-1].level)
        for nodes in consistency_proof_nodes(old, size)
    ]
    covered.sort()
    assert len(covered) <= 64
    if covered:
        assert covered[-1][1] == size
        # what is not covered is a prefix that is one complete subtree of the old tree
        assert covered[0][0] in {0} | {1 << bit for bit in range(64)} or old == size


def test_hashes_cannot_lend_each_other_bytes():
    """Without lengths, another split of the same concatenation would hash alike."""
    left, right = leaves(2)
    root = node_hash(left, right)
    verify_inclusion(left, 0, 2, [right], root)
    verify_consistency(1, left, 2, root, [right])
    shifted, longer = left[:31], left[31:] + right
    assert node_hash(shifted, longer) == root
    with pytest.raises(IntegrityError):
        verify_inclusion(shifted, 0, 2, [longer], root)
    with pytest.raises(IntegrityError):
        verify_consistency(1, shifted, 2, root, [longer])


def test_a_wrong_old_root_is_found_at_every_size():
    for size in range(2, 20):
        hashes = leaves(size)
        for old in range(1, size):
            proof = consistency_proof(old, hashes)
            for root in (bytes(32), root_of(hashes), root_of(hashes[: old - 1])):
                with pytest.raises(IntegrityError):
                    verify_consistency(old, root, size, root_of(hashes), proof)


def test_a_proof_of_the_wrong_length_leads_nowhere():
    hashes = leaves(5)
    for index in range(5):
        proof = inclusion_proof(index, hashes)
        for bad in ([*proof, bytes(32)], proof[:-1]):
            with pytest.raises(IntegrityError):
                root_from_inclusion(hashes[index], index, 5, bad)
    with pytest.raises(IntegrityError):
        root_from_inclusion(hashes[0], 0, 1, [bytes(32)])


def test_a_leaf_hash_is_not_a_node_hash():
    left, right = leaves(2)
    assert leaf_hash(left + right) != node_hash(left, right)


def test_sizes_are_bounded():
    zero = bytes(32)
    for index, size in ((0, 0), (-1, 1), (1, 1), (0, 2**63)):
        with pytest.raises(IntegrityError):
            verify_inclusion(zero, index, size, [], zero)
        with pytest.raises(UsageError):
            inclusion_proof_nodes(index, size)
    for old, new in ((0, 1), (2, 1), (-1, 1), (1, 2**63), (0, 0)):
        with pytest.raises(IntegrityError):
            verify_consistency(old, zero, new, zero, [])
        with pytest.raises(UsageError):
            consistency_proof_nodes(old, new)
    for size in (-1, 2**63):
        with pytest.raises(UsageError):
            root_from(LeafReader([]), size)
    with pytest.raises(IntegrityError):
        verify_inclusion(zero, 2**62, 2**63 - 1, [zero] * 64, zero)
    with pytest.raises(UsageError):
        CompactRange(2**63 - 1, [zero] * 63).append(zero)


def test_a_compact_range_refuses_state_that_cannot_be_right():
    for size, nodes in ((0, [bytes(32)]), (3, [bytes(32)]), (-1, []), (1, [bytes(31)]), (2**63, [bytes(32)])):
        with pytest.raises(IntegrityError):
            CompactRange(size, nodes)
    with pytest.raises(UsageError):
        CompactRange().append(b"short")


def test_a_leaf_reader_refuses_what_is_outside():
    reader = LeafReader(leaves(3))
    for level, index in ((0, 3), (0, -1), (1, 1), (2, 0), (-1, 0)):
        with pytest.raises(UsageError):
            reader.hash_at(level, index)


def test_the_empty_tree():
    assert root_of([]) == combine([]) == CompactRange().root() == EMPTY_ROOT
