"""Deliberate breakages of agent, collector and core, each with the trial and the seeds that catch it.

A mutant replaces one piece of one function's source. Each is a mistake that somebody could make, and that a
reader of the diff could miss.

The list does not prove that every breakage is caught. These were tried and not caught by these trials: the
fence left out alone, a ballot used twice, acquire's step 4 left out, a checkpoint that goes back, a failed
create taken for success, a pending pack not fixed, the tail forgotten, a signature before its guard. The
databases here are shared between collectors, which hides most of them; the interleaving tests and the model
catch some.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` becomes ``new`` in the function ``where`` (module:qualified name)."""

    name: str
    where: str
    old: str
    new: str
    trial: str = "life"
    seeds: tuple[int, ...] = ()
    """That are known to catch it: tried first."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The product, broken."""
        module_name, path = self.where.split(":")
        module = importlib.import_module(module_name)
        owner: object = module
        *owners, name = path.split(".")
        for part in owners:
            owner = getattr(owner, part)
        static = inspect.getattr_static(owner, name)
        function: Any = static.fget if isinstance(static, property) else static
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise LookupError(
                f"{self.name}: {self.where} has {source.count(self.old)} times what is to be replaced"
            )
        space: dict[str, object] = {}
        flags = __future__.annotations.compiler_flag
        source = source.replace("@property\n", "").replace(self.old, self.new)
        exec(compile(source, f"<{self.name}>", "exec", flags), vars(module), space)  # a mutant is that
        broken = property(space[name]) if isinstance(static, property) else space[name]  # type: ignore[arg-type]  # a function
        with ExitStack() as stack:
            for holder in [owner, *_importers(name, static)]:
                stack.enter_context(mock.patch.object(holder, name, broken))
            yield


def _importers(name: str, function: object) -> list[object]:
    """The modules that have a function under its name."""
    return [module for module in list(sys.modules.values()) if vars(module).get(name) is function]


SPOOL = "duramen_agent.spool:Spool"
SEALER = "duramen_agent.sealer:Sealer"
TAIL = "duramen_agent.tail:Tailer"
GENERATION = "duramen_agent.generation:Generation"
ENGINE = "duramen_agent.engine:Engine"
RECEIPTS = "duramen_agent.receipts:Receipts"
FORWARDER = "duramen_agent.forwarder:Forwarder"
INGEST = "duramen_collector.ingest:"
LEDGER = "duramen_collector.ledger:Ledger"
SEQUENCER = "duramen_collector.sequencer:Sequencer"
HEADS = "duramen_collector.heads:Heads"
REPLICAS = "duramen_collector.replica:Replicas"

MUTANTS = (
    # The agent's spool and seed
    Mutant(
        "commits_unsynced", f"{SPOOL}._prepare", '"synchronous", "FULL"', '"synchronous", "OFF"', seeds=(1,)
    ),
    Mutant("positions_not_stored", f"{SPOOL}.append", "self._write_positions(positions)", "pass", seeds=(0,)),
    Mutant("state_not_stored", f"{SPOOL}.append", "self._write_state(state)", "pass", seeds=(0,)),
    Mutant("envelopes_not_stored", f"{SPOOL}.append", "if envelopes is not None:", "if False:", seeds=(0,)),
    Mutant("generation_numbers_again", f"{SPOOL}._write_positions", "if positions:", "if False:", seeds=(0,)),
    Mutant("gone_positions_kept", f"{SPOOL}._write_positions", "if item.gone:", "if False:", seeds=(1,)),
    Mutant(
        "pruned_all",
        f"{SPOOL}.mark_published",
        'WHERE seq <= ? AND published_ns IS NULL",\n            (now_ns, through_seq),',
        'WHERE published_ns IS NULL",\n            (now_ns,),',
        seeds=(0,),
    ),
    Mutant(
        "pruned_when_accepted",
        f"{SPOOL}.mark_accepted",
        "with self._transaction():",
        "with self._transaction():\n        self._db.execute('DELETE FROM block WHERE seq <= ?', (seq,))",
        seeds=(0,),
    ),
    Mutant(
        "seed_never_forgotten", f"{SEALER}._flush_seed", "if not self._seed_pending:", "if True:", seeds=(0,)
    ),
    Mutant(
        "seed_before_block",
        f"{SEALER}._write",
        "    self._spool.append(",
        "    self._disk.overwrite(os.fsencode(self._seed_path), following.encode())\n    self._spool.append(",
        seeds=(5,),
    ),
    # Tailing
    Mutant(
        "fingerprint_unchecked_on_read", f"{GENERATION}._recognise", "!= self._head", "is None", seeds=(4,)
    ),
    Mutant(
        "shorter_than_seen_unnoticed",
        f"{GENERATION}.observe",
        "self._was_shorter or stat.size < self.size",
        "False",
        seeds=(2,),
    ),
    Mutant(
        "loss_uncounted",
        f"{GENERATION}.lost_bytes",
        "return max(0, known - self.taken)",
        "return 0",
        seeds=(2,),
    ),
    Mutant("loss_overcounted", f"{GENERATION}.lost_bytes", "known - self.taken", "known", seeds=(0,)),
    Mutant("torn_line_twice", f"{GENERATION}._cut", "self._pending = buffer[last:]", "pass", seeds=(0,)),
    Mutant(
        "taken_too_far",
        f"{GENERATION}._cut",
        "self.taken = base + last",
        "self.taken = base + len(buffer)",
        seeds=(0,),
    ),
    Mutant(
        "vanished_unsaid",
        f"{TAIL}._vanish",
        "if generation.number in self._expected:",
        "if True:",
        seeds=(7,),
    ),
    Mutant(
        "replaced_unsaid",
        f"{TAIL}._replace",
        "AgentEvent(EventKind.TRUNCATED, now.wall_ns, details, lost)",
        "None",
        seeds=(0,),
    ),
    Mutant(
        "batch_dropped_when_full",
        f"{ENGINE}._drain",
        "self._hold(str(error), now)",
        "self._hold(str(error), now); self._queue.popleft()",
        seeds=(1,),
    ),
    # Forwarding and receipts
    Mutant(
        "receipt_unverified",
        f"{RECEIPTS}._apply",
        "signed = verify_receipt(\n        receipt, statements, self._keys, "
        "self._seen_size, self._seen_root, "
        "self._policy\n    )",
        "from duramen.checkpoint import open_checkpoint; "
        "signed = open_checkpoint(receipt.checkpoint, self._keys)",
        "liar",
        seeds=(0,),
    ),
    Mutant(
        "receipts_without_pause",
        f"{RECEIPTS}.none_yet",
        "self._next_ns = now_ns + self._pace_ns",
        "self._next_ns = now_ns",
        seeds=(0,),
    ),
    Mutant(
        "inclusion_unchecked",
        "duramen.receipt:verify_receipt",
        "verify_inclusion(",
        "(lambda *_: None)(",
        "liar",
        seeds=(0,),
    ),
    Mutant("data_key_not_ratcheted", f"{SEALER}.seal", ".next()", "", seeds=(0,)),
    # Ingest
    Mutant(
        "accepted_unwritten",
        f"{INGEST}_receive_block",
        "land_block(connection, state.tenant, block, upload.body, now_ns)",
        "pass",
        seeds=(0,),
    ),
    Mutant(
        "signature_unchecked",
        "duramen.chain:advance",
        "verify_block(block, state.next_public)",
        "pass",
        "forger",
        seeds=(11,),
    ),
    Mutant(
        "body_unchecked",
        f"{INGEST}parse_blocks",
        "check_body(block, frame.body)",
        "pass",
        "forger",
        seeds=(11,),
    ),
    Mutant(
        "envelopes_unchecked",
        f"{INGEST}_commit_envelopes",
        "if hashes != dict(listed.envelopes):",
        "if False:",
        "eater",
        seeds=(11,),
    ),
    Mutant(
        "chain_not_updated", f"{INGEST}receive_blocks", "if stored is not before:", "if False:", seeds=(0,)
    ),
    # Publishing
    Mutant(
        "one_copy_is_enough", f"{SEQUENCER}._copies", "self._settings.configuration.copies", "1", seeds=(0,)
    ),
    Mutant("swap_unconditional", f"{HEADS}._swap", "self.regions[name].version))", "None))", seeds=(0,)),
    Mutant(
        "read_back_skipped", f"{REPLICAS}._read_back", "good = list(names)", "return list(names)", seeds=(0,)
    ),
    Mutant(
        "read_back_not_compared",
        f"{REPLICAS}._read_back",
        "not isinstance(answer, Found) or answer.data != item.data",
        "isinstance(answer, Failed)",
        seeds=(0,),
    ),
    Mutant("nothing_adopted", f"{SEQUENCER}._choose", "return max(", "return None and max(", seeds=(0,)),
    Mutant("lowest_adopted", f"{SEQUENCER}._choose", "max(", "min(", seeds=(3,)),
    Mutant("promise_ignored", f"{HEADS}._change", "if head.promised > ballot:", "if False:", seeds=(2,)),
    Mutant("unsure_swap_counts", f"{HEADS}._swap", "unsure.append(name)", "done.append(name)", seeds=(5,)),
    Mutant(
        "incomplete_region_ready",
        "duramen_collector.holdings:Holdings.ready",
        "regions[name].complete >= size and",
        "",
        seeds=(3,),
    ),
    # Audit
    Mutant(
        "audit_body_unchecked",
        "duramen.packaudit:PackContents._frame",
        "if hashlib.sha256(body).digest() != block.header.body:",
        "if False:",
        "tampering",
        seeds=(11,),
    ),
    Mutant(
        "audit_frame_unchecked",
        "duramen.packaudit:PackContents._frame",
        "if found != expected and",
        "if False and",
        "tampering",
        seeds=(11,),
    ),
    Mutant(
        "audit_envelope_unchecked",
        "duramen.envelopeaudit:Envelopes.take_keys",
        "elif hashlib.sha256(data).digest() != digest:",
        "elif False:",
        "tampering",
        seeds=(11,),
    ),
    Mutant(
        "audit_kept_unchecked",
        "duramen.audit:_Audit._check_kept",
        "for key in self._reader",
        "return\n    for key in self._reader",
        "tampering",
        seeds=(11,),
    ),
    Mutant(
        "audit_tree_unread",
        "duramen.audit:_Audit._judge_tree",
        "for defect in log.defects:",
        "for defect in ():",
        "tampering",
        seeds=(11,),
    ),
    Mutant(
        "mldsa_unchecked",
        "duramen.checkpoint:open_checkpoint",
        "_verified_line(note, checkpoint, keys.mldsa44)",
        "0",
        "tampering",
        seeds=(11,),
    ),
    Mutant(
        "rollback_unremembered",
        "duramen_collector.verification:_Verifier._check_progress",
        "shown.size < before",
        "False",
        "set_back",
        seeds=(11,),
    ),
    Mutant(
        "seed_not_compared",
        f"{SEALER}.__init__",
        "if self._ratchet.public() != state.chain.next_public:",
        "if False:",
        "restored_host",
        seeds=(0,),
    ),
)
