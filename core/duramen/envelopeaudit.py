"""The envelopes of a region, held against what the keys blocks commit to (DESIGN 4).

A keys block names for every recipient the hash of its envelope. One that is missing while others of the
same data key are there is ``replica_missing``, one with other bytes ``replica_corrupt``. When all envelopes
of a data key are gone, so is what was sealed under it: ``erased_by_policy`` if a notice of type ``erase``
names that data key, ``unexplained_loss`` if none does.

An erase notice names its data key in the field ``dek``, 32 hex digits; it may come long after the keys
block, so absences are judged by :meth:`Envelopes.finish`. With a reader's key the data keys are unwrapped,
too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from duramen import canonical
from duramen.body import Payload, open_body
from duramen.datakey import DataKeyRatchet
from duramen.envelope import EnvelopeContext, ReaderKey, open_key_list
from duramen.errors import FormatError, IntegrityError, LimitError
from duramen.lineage import Report
from duramen.names import ChainId, DataKeyId
from duramen.ports import ObjectReader
from duramen.region import envelope_key
from duramen.statement import Block, Notice
from duramen.verdict import Code, Severity


@dataclass(frozen=True, slots=True)
class _Absence:
    leaf: int
    block: Block
    keys: tuple[str, ...]


class Envelopes:
    """What the log's keys blocks say about envelopes, and what the region has of them."""

    def __init__(
        self, reader: ObjectReader, tenant: str, report: Report, reader_key: ReaderKey | None
    ) -> None:
        self._reader = reader
        self._tenant = tenant
        self._report = report
        self._reader_key = reader_key
        self._absent: dict[DataKeyId, _Absence] = {}
        self._erased: set[DataKeyId] = set()
        self._ratchets: dict[tuple[ChainId, DataKeyId], DataKeyRatchet] = {}
        self.count = 0
        """Envelopes that were found and are right."""

    def take_notice(self, leaf: int, notice: Notice) -> None:
        """Note which data key an erase notice names."""
        if notice.type != "erase":
            return
        try:
            dek = canonical.Fields(notice.fields, "an erase notice").hexed("dek", 16)
        except FormatError as error:
            self._report(Code.HEADER_CORRUPT, str(error), leaf=leaf)
            return
        self._erased.add(DataKeyId(dek))

    def take_keys(self, leaf: int, block: Block, body: bytes) -> None:
        """Check every envelope that a keys block commits to."""
        header = block.header
        try:
            listed = open_key_list(header, body)
        except FormatError as error:
            self._tell(Code.BODY_CORRUPT, str(error), leaf, block)
            return
        except IntegrityError as error:
            self._tell(Code.HEADER_CORRUPT, str(error), leaf, block)
            return
        missing = []
        for key_hash, digest in listed.envelopes:
            key = envelope_key(self._tenant, header.dek, key_hash)
            data = self._reader.read(key)
            if data is None:
                missing.append(key)
            elif hashlib.sha256(data).digest() != digest:
                self._tell(
                    Code.REPLICA_CORRUPT, "the envelope is not the one its keys block names", leaf, block, key
                )
            else:
                self.count += 1
                if self._reader_key is not None and self._reader_key.recipient.key_hash == key_hash:
                    self._unwrap(leaf, block, data, self._reader_key, key)
        if len(missing) == len(listed.envelopes):
            self._absent[header.dek] = _Absence(leaf, block, tuple(missing))
        else:
            self._report_missing(missing, leaf, block)

    def finish(self, exists: Callable[[str], bool] | None = None) -> None:
        """Judge the data keys without any envelope.

        ``exists`` tells whether another region has the object of a key.
        """
        for dek, absence in self._absent.items():
            if exists is not None and any(exists(key) for key in absence.keys):
                self._report_missing(absence.keys, absence.leaf, absence.block)
            elif dek in self._erased:
                detail = f"all envelopes of data key {dek.hex()} were destroyed, as a notice in the log says"
                self._tell(Code.ERASED_BY_POLICY, detail, absence.leaf, absence.block, absence.keys[0])
            else:
                detail = f"no envelope of data key {dek.hex()} is left and no notice says why"
                self._tell(Code.UNEXPLAINED_LOSS, detail, absence.leaf, absence.block, absence.keys[0])

    def block_key(self, block: Block) -> bytes | None:
        """The block key, 32 bytes; None when this reader holds no envelope of the block's data key."""
        header = block.header
        state = self._ratchets.get((header.chain, header.dek))
        if state is None or header.step < state.step:
            return None
        try:
            state = state.forward_to(header.step)
        except LimitError:
            return None
        self._ratchets[header.chain, header.dek] = state
        return state.block_key(header.chain, header.seq, header.root)

    def open(self, leaf: int, block: Block, body: bytes, block_key: bytes) -> Payload | None:
        """The contents of a block; None, with a finding, when they are not what the header commits to."""
        try:
            return open_body(block.header, body, block_key)
        except (IntegrityError, FormatError) as error:
            self._tell(Code.BODY_CORRUPT, str(error), leaf, block)
            return None

    def _unwrap(self, leaf: int, block: Block, data: bytes, reader_key: ReaderKey, key: str) -> None:
        header = block.header
        context = EnvelopeContext(
            self._tenant, header.chain, header.dek, header.group, header.retention_class
        )
        try:
            dek = reader_key.unwrap(data, context)
        except (IntegrityError, FormatError) as error:
            self._tell(Code.BODY_CORRUPT, str(error), leaf, block, key)
            return
        self._ratchets[header.chain, header.dek] = DataKeyRatchet.start(dek)

    def _report_missing(self, keys: list[str] | tuple[str, ...], leaf: int, block: Block) -> None:
        for key in keys:
            self._tell(
                Code.REPLICA_MISSING, "an envelope that a keys block names is missing", leaf, block, key
            )

    def _tell(
        self,
        code: Code,
        detail: str,
        leaf: int,
        block: Block,
        key: str = "",
        severity: Severity | None = None,
    ) -> None:
        self._report(
            code, detail, severity=severity, chain=block.chain, seq=block.header.seq, leaf=leaf, key=key
        )
