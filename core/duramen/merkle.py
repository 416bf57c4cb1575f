"""RFC 6962 Merkle trees over SHA-256: roots, inclusion proofs, consistency proofs.

A tree of ``size`` leaves splits at the largest power of two below ``size``; a leaf is hashed behind 0x00,
an inner node behind 0x01. Nodes are named by (level, index): level is the height of a *complete* subtree,
so node (l, i) covers the leaves [i << l, (i + 1) << l). Everything that is not complete (the right edge) is
combined from complete nodes and never stored.

Three ways to the same hashes:

- :func:`root_of` over all leaf hashes, level by level: the fast one, for a block's records;
- :class:`CompactRange`, which keeps one hash per set bit of its size and grows at the right;
- the ``_from`` functions over a :class:`HashReader`, for logs whose leaves do not fit into memory.

Verification follows RFC 9162 sections 2.1.3.2 and 2.1.4.2 and raises :class:`IntegrityError` with the code
``tree_mismatch`` for everything that is not a valid proof, malformed ones included. Leaf hashes are opaque
here: a verifier must compute them from the entry itself with :func:`leaf_hash`, or a node could be passed
off as a leaf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol, TypeAlias

from duramen.errors import IntegrityError, UsageError

HASH_BYTES: Final = 32
SIZE_LIMIT: Final = 1 << 63
"""Tree sizes stay below this (C2SP cosignatures bound the timestamp beside them alike)."""
EMPTY_ROOT: Final[bytes] = sha256(b"").digest()
"""The root of the tree without leaves (RFC 6962 section 2.1)."""


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree: height, and position among those of its height."""

    level: int
    index: int


NodeRange: TypeAlias = tuple[Node, ...]
"""Complete subtrees, left to right and largest first, whose hashes :func:`combine` folds into one."""


class HashReader(Protocol):
    """Where hashes of complete subtrees come from (memory, tiles, a database)."""

    def hash_at(self, level: int, index: int) -> bytes:
        """The 32-byte hash over the leaves [index << level, (index + 1) << level)."""
        ...


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over all ``leaf_hashes``.

    An odd node at the end of a level is promoted unchanged, which gives RFC 6962's split: what lies right
    of the largest power of two joins it only at the level where both are single nodes.
    """
    level = list(leaf_hashes)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        odd = level.pop() if len(level) & 1 else None
        pairs = iter(level)
        level = [sha256(b"\x01" + a + b).digest() for a, b in zip(pairs, pairs, strict=True)]
        if odd is not None:
            level.append(odd)
    return level[0]


def combine(hashes: Sequence[bytes]) -> bytes:
    """Fold the hashes of a :data:`NodeRange`, right to left, into the hash of the whole range."""
    if not hashes:
        return EMPTY_ROOT
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = sha256(b"\x01" + left + result).digest()
    return result


class CompactRange:
    """The roots of the complete subtrees that make up a tree of ``size`` leaves: all it takes to grow it.

    ``nodes`` are left to right, largest first, one for each set bit of ``size``. Another number of nodes,
    or one that is not 32 bytes long, is an :class:`IntegrityError`: stored state that cannot be right.
    """

    __slots__ = ("_nodes", "_size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        kept = [bytes(node) for node in nodes]
        if not 0 <= size < SIZE_LIMIT or len(kept) != size.bit_count():
            raise IntegrityError(
                f"a compact range of {size} leaves cannot have {len(kept)} nodes; rebuild it from the leaves",
                code="tree_mismatch",
            )
        if any(len(node) != HASH_BYTES for node in kept):
            raise IntegrityError(
                "a compact range holds a node that is not 32 bytes long; rebuild it from the leaves",
                code="tree_mismatch",
            )
        self._size = size
        self._nodes = kept

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """Subtree roots, left to right."""
        return tuple(self._nodes)

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf, by its 32-byte leaf hash."""
        if len(leaf_hash) != HASH_BYTES:
            raise UsageError(f"a leaf hash is 32 bytes, not {len(leaf_hash)}")
        if self._size + 1 >= SIZE_LIMIT:
            raise UsageError("the tree has reached its largest size of 2**63 - 1 leaves")
        carry = self._size
        while carry & 1:
            leaf_hash = sha256(b"\x01" + self._nodes.pop() + leaf_hash).digest()
            carry >>= 1
        self._nodes.append(leaf_hash)
        self._size += 1

    def extend(self, leaf_hashes: Iterable[bytes]) -> None:
        """Add leaves in order."""
        for item in leaf_hashes:
            self.append(item)

    def root(self) -> bytes:
        """The root of the tree as it stands."""
        return combine(self._nodes)

    def copy(self) -> CompactRange:
        """An independent copy, to try leaves on."""
        return CompactRange(self._size, self._nodes)


class LeafReader:
    """A :class:`HashReader` over leaf hashes in memory; every complete level is computed once."""

    __slots__ = ("_levels",)

    def __init__(self, leaf_hashes: Sequence[bytes]) -> None:
        level = list(leaf_hashes)
        self._levels = [level]
        while len(level) > 1:
            whole = level[: len(level) & ~1]
            pairs = iter(whole)
            level = [sha256(b"\x01" + a + b).digest() for a, b in zip(pairs, pairs, strict=True)]
            self._levels.append(level)

    def hash_at(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree; one outside of the tree is a :class:`UsageError`."""
        if not 0 <= level < len(self._levels) or not 0 <= index < len(self._levels[level]):
            raise UsageError(f"the tree has no complete subtree at level {level}, index {index}")
        return self._levels[level][index]


def range_nodes(start: int, end: int) -> NodeRange:
    """The complete subtrees of the leaves [start, end), where ``start`` is 0 or a split point of the tree."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return tuple(nodes)


def inclusion_proof_nodes(index: int, size: int) -> list[NodeRange]:
    """For every element of the proof of leaf ``index`` in a tree of ``size``, what it is combined from."""
    if not 0 <= index < size < SIZE_LIMIT:
        raise UsageError(f"leaf {index} is not in a tree of {size} leaves")
    low, high = 0, size
    ranges = []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            ranges.append(range_nodes(middle, high))
            high = middle
        else:
            ranges.append(range_nodes(low, middle))
            low = middle
    ranges.reverse()
    return ranges


def consistency_proof_nodes(old_size: int, size: int) -> list[NodeRange]:
    """For every element of the consistency proof from ``old_size`` to ``size``, what it is combined from.

    Nothing can be proven from the empty tree: ``old_size`` 0 is a :class:`UsageError`.
    """
    if not 0 < old_size <= size < SIZE_LIMIT:
        raise UsageError(f"there is no consistency proof from {old_size} to {size} leaves")
    low, high = 0, size
    ranges = []
    while high != old_size:
        middle = low + _split(high - low)
        if old_size <= middle:
            ranges.append(range_nodes(middle, high))
            high = middle
        else:
            ranges.append(range_nodes(low, middle))
            low = middle
    if low:  # the old root itself is known to the verifier; anything smaller must be given
        ranges.append(range_nodes(low, high))
    ranges.reverse()
    return ranges


def inclusion_proof_from(reader: HashReader, index: int, size: int) -> list[bytes]:
    """The inclusion proof of leaf ``index`` in the tree of ``size`` leaves (RFC 6962 section 2.1.1)."""
    return [_read(reader, nodes) for nodes in inclusion_proof_nodes(index, size)]


def consistency_proof_from(reader: HashReader, old_size: int, size: int) -> list[bytes]:
    """The consistency proof between two sizes (RFC 6962 section 2.1.2)."""
    return [_read(reader, nodes) for nodes in consistency_proof_nodes(old_size, size)]


def root_from(reader: HashReader, size: int) -> bytes:
    """The root of the first ``size`` leaves."""
    return compact_range_from(reader, size).root()


def compact_range_from(reader: HashReader, size: int) -> CompactRange:
    """The compact range of the first ``size`` leaves: how a log goes on growing after a restart."""
    if not 0 <= size < SIZE_LIMIT:
        raise UsageError(f"a tree cannot have {size} leaves")
    return CompactRange(size, [reader.hash_at(node.level, node.index) for node in range_nodes(0, size)])


def inclusion_proof(index: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """The inclusion proof of leaf ``index``, sibling of the leaf first, from all leaf hashes."""
    return inclusion_proof_from(LeafReader(leaf_hashes), index, len(leaf_hashes))


def consistency_proof(old_size: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """The consistency proof from ``old_size`` to all of ``leaf_hashes``."""
    return consistency_proof_from(LeafReader(leaf_hashes), old_size, len(leaf_hashes))


def root_from_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that ``proof`` leads to; raises IntegrityError (``tree_mismatch``) if its shape is wrong."""
    if not 0 <= index < size < SIZE_LIMIT:
        raise _mismatch(f"leaf {index} cannot be in a tree of {size} leaves")
    _demand_hashes((leaf_hash, *proof))
    result = leaf_hash
    for item, is_left in _siblings(index, size - 1, proof):
        result = node_hash(item, result) if is_left else node_hash(result, item)
    return result


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Demand that ``proof`` leads from the leaf to ``root``; raises IntegrityError (``tree_mismatch``)."""
    if root_from_inclusion(leaf_hash, index, size, proof) != root:
        raise _mismatch(f"leaf {index} is not in the tree of {size} leaves with the stated root")


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Demand that the tree of ``new_size`` begins with the tree of ``old_size``.

    Raises IntegrityError (``tree_mismatch``). Everything follows from the empty tree, so a proof from size
    0 says nothing and is refused; a caller that has seen nothing yet must not ask.
    """
    if not 0 < old_size <= new_size < SIZE_LIMIT:
        raise _mismatch(f"nothing can be proven from {old_size} to {new_size} leaves")
    if old_size == new_size:
        if proof or old_root != new_root:
            raise _mismatch(
                f"two trees of {old_size} leaves have different roots, or a proof where none is due"
            )
        return
    _demand_hashes((old_root, new_root, *proof))
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)  # a complete old tree is its own first node
    if not path:
        raise _mismatch("the consistency proof is empty")
    shift = (old_size & -old_size).bit_length() - 1  # the complete subtree that path[0] stands for
    old = new = path[0]
    for item, is_left in _siblings((old_size - 1) >> shift, (new_size - 1) >> shift, path[1:]):
        if is_left:
            old = node_hash(item, old)
            new = node_hash(item, new)
        else:
            new = node_hash(new, item)
    if old != old_root or new != new_root:
        raise _mismatch(f"the tree of {new_size} leaves does not begin with the known tree of {old_size}")


def _siblings(node: int, last: int, proof: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Every proof element and whether it stands left, going up from ``node`` of a level ending at ``last``.

    A proof that is longer or shorter than that way is a ``tree_mismatch``.
    """
    for item in proof:
        if last == 0:
            raise _mismatch("the proof is longer than the tree sizes allow")
        is_left = bool(node & 1) or node == last
        yield item, is_left
        if is_left:
            while node and not node & 1:  # promoted unchanged: no sibling on these levels
                node >>= 1
                last >>= 1
        node >>= 1
        last >>= 1
    if last:
        raise _mismatch("the proof is shorter than the tree sizes demand")


def _split(count: int) -> int:
    """The largest power of two below ``count`` (at least 2)."""
    return 1 << ((count - 1).bit_length() - 1)


def _read(reader: HashReader, nodes: NodeRange) -> bytes:
    return combine([reader.hash_at(node.level, node.index) for node in nodes])


def _demand_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise _mismatch("a proof holds a hash that is not 32 bytes long")


def _mismatch(message: str) -> IntegrityError:
    return IntegrityError(message, code="tree_mismatch")
