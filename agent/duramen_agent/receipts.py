"""When the agent may let go of blocks: checking receipts, and asking for them at a modest pace.

What is guaranteed: ``mark_published`` is called for a statement only after a receipt proved its inclusion
under a checkpoint that both pinned log keys signed (and the policy's witnesses, where one is configured),
consistent with the checkpoint verified before. An invalid receipt is not retried: pruning stops until the
agent is started again, the finding stays, and forwarding goes on, because another copy at the collector harms
nobody. A checkpoint below the policy's quorum is the one exception: a named state that ends when the
witnesses are back.

Two requests in flight may bring the same receipt; the overtaken one is dropped, recognised by what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from duramen.checkpoint import LogKeys
from duramen.errors import FormatError, IntegrityError
from duramen.names import Digest, Seq
from duramen.policy import Policy
from duramen.receipt import Receipt, verify_receipt
from duramen_agent.spool import Spool, SpoolState

PACE_FIRST_NS: Final = 10**9
"""How long after an acceptance the first question for a receipt is asked, at least."""
PACE_MAX_NS: Final = 30 * 10**9


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request told the collector about receipts."""

    first: Seq
    """The first statement without a receipt."""
    seen_size: int


class Receipts:
    """What is known to be published; times are monotonic ns unless a name says wall."""

    def __init__(
        self, spool: Spool, state: SpoolState, keys: LogKeys, policy: Policy | None, *, keep_ns: int
    ) -> None:
        self._spool = spool
        self._keys = keys
        self._policy = policy
        self._keep_ns = keep_ns
        self.published_seq = state.published_seq
        self._seen_size = state.seen_size
        self._seen_root = state.seen_root
        self.defect: str | None = None
        """Why receipts do not hold, in one sentence after a finding code."""
        self._stopped = False
        self._pace_ns = PACE_FIRST_NS
        self._waiting_since_ns: int | None = None
        self._next_ns = 0

    @property
    def asked(self) -> Asked:
        """What to tell the collector now."""
        return Asked(Seq(self.published_seq + 1), self._seen_size)

    def accepted(self, accepted_seq: int, now_ns: int) -> None:
        """The collector has everything through ``accepted_seq``: a receipt for it will be due."""
        if accepted_seq > self.published_seq and self._waiting_since_ns is None:
            self._waiting_since_ns = now_ns
            self._next_ns = now_ns + self._pace_ns

    def due_ns(self) -> int | None:
        """When to ask for a receipt; None when there is nothing to ask for."""
        return None if self._stopped or self._waiting_since_ns is None else self._next_ns

    def none_yet(self, now_ns: int) -> None:
        """A question brought no receipt: ask again, later each time."""
        self._pace_ns = min(PACE_MAX_NS, self._pace_ns + self._pace_ns // 2)
        self._next_ns = now_ns + self._pace_ns

    def take(
        self,
        receipt: Receipt,
        asked: Asked,
        *,
        published_seq: int,
        accepted_seq: int,
        wall_ns: int,
        now_ns: int,
    ) -> None:
        """Check a receipt that came in answer to ``asked``, and let go of what it proves.

        ``published_seq`` is what the collector says is published, ``accepted_seq`` what it holds of ours.
        Raises StorageError when the spool fails, with nothing changed here.
        """
        if self._stopped or asked != self.asked:
            return
        try:
            last = self._apply(receipt, accepted_seq, wall_ns)
        except IntegrityError as error:
            self._found(error.code, str(error), now_ns)
            return
        except FormatError as error:
            self._found("checkpoint_invalid", str(error), now_ns)
            return
        self.defect = None
        self.published_seq = last
        if self._waiting_since_ns is not None:
            self._pace_ns = min(PACE_MAX_NS, max(PACE_FIRST_NS, now_ns - self._waiting_since_ns))
        if last >= accepted_seq:
            self._waiting_since_ns = None
        else:
            self._waiting_since_ns = now_ns
            self._next_ns = now_ns if last < published_seq else now_ns + self._pace_ns

    def _apply(self, receipt: Receipt, accepted_seq: int, wall_ns: int) -> Seq:
        first = Seq(self.published_seq + 1)
        count = len(receipt.proofs)
        last = Seq(first + count - 1)
        if receipt.first != first or not count or last > accepted_seq:
            raise FormatError(
                f"it is for {count} statements from {receipt.first} on, where it was asked for those from "
                f"{first} to at most {accepted_seq}"
            )
        statements = self._spool.entries(first, count)
        signed = verify_receipt(
            receipt, statements, self._keys, self._seen_size, self._seen_root, self._policy
        )
        size, root = signed.checkpoint.size, Digest(signed.checkpoint.root)
        self._spool.mark_published(last, size, root, receipt.checkpoint, self._keep_ns, wall_ns)
        self._seen_size, self._seen_root = size, root
        return last

    def _found(self, code: str, detail: str, now_ns: int) -> None:
        self._stopped = code != "below_policy"
        advice = (
            "nothing is deleted from the spool until the witnesses are back"
            if code == "below_policy"
            else "nothing is deleted from the spool any more; compare log_keys with the collector's, and if "
            "they are right, treat the collector as compromised"
        )
        self.defect = f"{code}: the collector's receipt does not hold ({detail}): {advice}"
        self.none_yet(now_ns)
