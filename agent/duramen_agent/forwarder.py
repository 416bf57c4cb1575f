"""Forwarding: blocks in order to a collector, at least once, idempotent by (chain, seq).

A state machine without I/O, clock or threads: :meth:`Forwarder.poll` says which requests are to be made now,
the answers come back as events. What it guarantees, whatever is lost, repeated, delayed or forged in between:

- It resumes from the head that the collector reports, and only if that head is one of this chain's own
  statements. A head past ours is a ``rollback``, another block in our place a ``fork``: both stop forwarding
  (never sealing) until a person acts. A head below what was pruned is ``receipt_unfulfilled``: the collector
  lost what it gave a receipt for.
- The envelopes of a data key are with the collector before the keys block that introduces it is sent.
- Nothing is marked published, so nothing pruned, without a receipt that :mod:`duramen_agent.receipts`
  verified.
- It never spins: every refusal, foreign answer and silence leads to backoff with full jitter or to the next
  collector (:mod:`duramen_agent.failover`); a block that a collector calls defective is named, and tried
  again once a minute, because a collector can be mended.

Whatever breaks a contact (see :mod:`duramen_agent.inflight`) leaves the answers still under way without
effect. When the spool fails within a call, the error is raised and the state here is what it was, or behind
the spool's by an acceptance, which sending again repairs.

What it does not do: choose what is sealed, hold bodies beyond one batch, or judge how long silence may last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from duramen.api import (
    JSON_MEDIA_TYPE,
    HeadAnswer,
    Heartbeat,
    Problem,
    ProgressAnswer,
    parse_head_answer,
    parse_progress_answer,
)
from duramen.checkpoint import LogKeys
from duramen.errors import ConfigurationError, StorageError
from duramen.frame import FRAMES_MEDIA_TYPE, encode_frame
from duramen.names import DataKeyId, Digest, Seq
from duramen.policy import Policy
from duramen.ports import Random
from duramen.statement import SIGNATURE_BYTES, BlockKind, parse_block_header
from duramen_agent.agentstatus import ForwardStatus
from duramen_agent.answers import RefusalError, expect, expect_nothing
from duramen_agent.effects import HttpFailure, HttpRequest, HttpResponse
from duramen_agent.failover import Failover
from duramen_agent.inflight import Ask, Contact, Flight, InFlight, Lane
from duramen_agent.receipts import Receipts
from duramen_agent.spool import Spool, SpoolState, StoredBlock

BATCH_FIRST_BYTES: Final = 256 * 1024
BATCH_MIN_BYTES: Final = 64 * 1024
BATCH_MAX_BYTES: Final = 2 * 1024 * 1024
"""A batch holds at least one block, whatever its size."""
BATCH_MAX_BLOCKS: Final = 512
REFUSED_RETRY_NS: Final = 60 * 10**9
"""How long a block that a collector called defective or too large is left alone."""
RESUME_PAUSE_NS: Final = 10**9
"""Between an answer that contradicts what we know and the next question for the head."""

SignHeartbeat = Callable[[bytes], tuple[Seq, Digest, bytes]]
"""From a collector's nonce: the next seq, the head's hash, and the signature by the next block's key."""


@dataclass(frozen=True, slots=True)
class ForwarderSettings:
    """What the configuration says about forwarding."""

    collectors: tuple[str, ...]
    """Base URLs in order of preference."""
    heartbeat_ns: int
    keep_ns: int
    """How long published blocks are kept back."""
    keys: LogKeys
    policy: Policy | None = None


class Forwarder:
    """See the module. All times are monotonic nanoseconds unless a name says wall."""

    def __init__(
        self, spool: Spool, settings: ForwarderSettings, random: Random, sign_heartbeat: SignHeartbeat
    ) -> None:
        state = spool.load()
        if state is None:
            raise ConfigurationError("this host is not enrolled: run duramen-agent enroll")
        self._spool = spool
        self._heartbeat_ns = settings.heartbeat_ns
        self._sign_heartbeat = sign_heartbeat
        self._failover = Failover(settings.collectors, random)
        self._receipts = Receipts(spool, state, settings.keys, settings.policy, keep_ns=settings.keep_ns)
        self._flights = InFlight(state.chain.chain)
        self._contact: Contact | None = None
        self._accepted_seq = state.accepted_seq
        self._sent_seq = state.accepted_seq
        self._more = True
        """Whether the spool may hold blocks past the accepted one."""
        self._batch_bytes = BATCH_FIRST_BYTES
        self._singly = False
        """Whether blocks go one by one, to find out which one is refused."""
        self._beat_ns = 0
        self._halted: str | None = None
        self._stuck: str | None = None
        self._last_error: str | None = None

    # Events in

    def on_sealed(self) -> None:
        """There are more blocks in the spool than before."""
        self._more = True

    def on_response(self, response: HttpResponse, now_wall_ns: int, now_monotonic_ns: int) -> None:
        """An answer came; one to a request that was given up has no effect.

        StorageError when the spool could not keep what it says; everything is then asked for again, after a
        pause: a disk that stays full must not make that as fast as the collector answers.
        """
        flight = self._flights.land(response.request_id)
        if flight is None or (flight.lane is not Lane.PROBE and flight.contact is not self._contact):
            return
        try:
            flight.handler(flight, response, now_wall_ns, now_monotonic_ns)
        except RefusalError as error:
            self._on_refusal(flight, error, now_monotonic_ns)
        except StorageError:
            flight.contact.hold_ns = max(flight.contact.hold_ns, now_monotonic_ns + RESUME_PAUSE_NS)
            self._receipts.none_yet(now_monotonic_ns)
            raise
        else:
            self._forgive(flight)

    def _forgive(self, flight: Flight) -> None:
        """Forget failures, but not of a collector that answers every question and takes no blocks."""
        if flight.contact is self._contact and (flight.last >= 0 or not self._more):
            self._failover.succeeded(flight.contact.collector)
            self._last_error = None

    def on_failure(self, failure: HttpFailure, now_monotonic_ns: int) -> None:
        """No answer came."""
        flight = self._flights.land(failure.request_id)
        if flight is not None:
            self._fail(flight, failure.reason, now_monotonic_ns)

    # Effects out

    def poll(self, now_monotonic_ns: int) -> list[HttpRequest]:
        """The requests to make now."""
        now = now_monotonic_ns
        for flight in self._flights.lost(now):
            self._fail(flight, f"{flight.contact.collector} did not answer in time", now)
        if self._halted is not None:
            return []
        if self._contact is None:
            collector = self._failover.select(now)
            if collector is None:
                return []
            self._contact = Contact(collector)
        requests = []
        for lane, choose in (
            (Lane.UPLOAD, self._next_upload),
            (Lane.HEARTBEAT, self._next_heartbeat),
            (Lane.RECEIPT, self._next_question),
        ):
            contact = self._contact
            if not self._flights.busy(lane, contact):
                ask = choose(contact, now)
                if ask is not None:
                    requests.append(self._send(lane, contact, ask, now))
        probe = self._next_probe(self._contact, now)
        return requests if probe is None else [*requests, probe]

    def deadline_ns(self) -> int | None:
        """When to call :meth:`poll` again although nothing happened; None: only after an event."""
        times = self._flights.lost_ns()
        contact = self._contact
        if self._halted is None and contact is None:
            times.append(self._failover.select_ns())
        if self._halted is None and contact is not None:
            times += self._contact_times(contact)
        return min(times, default=None)

    def _contact_times(self, contact: Contact) -> list[int]:
        times: list[int | None] = []
        if not self._flights.busy(Lane.UPLOAD, contact) and (
            self._more or contact.wanted or contact.head_due
        ):
            times.append(contact.hold_ns)
        if contact.resumed:
            if not self._flights.busy(Lane.HEARTBEAT, contact):
                times.append(self._beat_ns)
            if not self._flights.busy(Lane.RECEIPT, contact):
                times.append(self._receipts.due_ns())
            if not self._flights.busy(Lane.PROBE, contact):
                times.append(self._failover.probe_ns())
        return [time for time in times if time is not None]

    @property
    def settled(self) -> bool:
        """Whether waiting for collectors is of no use: all is accepted, or none can be reached now."""
        contact = self._contact
        return (
            contact is None
            or self._stuck is not None
            or not (self._more or contact.wanted or self._flights.busy(Lane.UPLOAD, contact))
        )

    def status(self, now_wall_ns: int) -> ForwardStatus:
        """How forwarding stands."""
        contact = self._contact
        waiting = self._spool.blocks(self._accepted_seq + 1, 1, 1)
        lag_ns = now_wall_ns - parse_block_header(waiting[0].header_bytes).sealed_ns if waiting else 0
        findings = [text for text in (self._halted, self._stuck, self._receipts.defect) if text is not None]
        critical = "; ".join(findings) or None
        return ForwardStatus(
            collector=contact.collector if contact is not None and contact.resumed else None,
            accepted_seq=self._accepted_seq,
            published_seq=self._receipts.published_seq,
            lag_seconds=max(0.0, lag_ns / 10**9),
            last_error=critical or self._last_error,
            failovers=self._failover.switches,
            degraded=self._last_error,
            critical=critical,
        )

    # Uploading

    def _next_upload(self, contact: Contact, now: int) -> Ask | None:
        if now < contact.hold_ns:
            return None
        if contact.head_due:
            return Ask("GET", "head", self._on_head)
        if contact.wanted:
            return self._ask_envelopes(contact, contact.wanted[0], now)
        if not self._more:
            return None
        count = 1 if self._singly else BATCH_MAX_BLOCKS
        blocks = self._spool.blocks(self._accepted_seq + 1, self._batch_bytes, count)
        if not blocks:
            self._more = False
            return None
        for block in blocks:
            if block.header_bytes[1] == BlockKind.KEYS:
                dek = parse_block_header(block.header_bytes).dek
                if dek not in contact.uploaded:
                    return self._ask_envelopes(contact, dek, now)
        return self._ask_blocks(blocks)

    def _ask_blocks(self, blocks: Sequence[StoredBlock]) -> Ask:
        asked = self._receipts.asked
        last = blocks[-1].seq
        self._sent_seq = max(self._sent_seq, last)
        return Ask(
            "POST",
            f"blocks?from={asked.first}&seen={asked.seen_size}",
            self._on_blocks,
            b"".join(encode_frame(block.header_bytes, block.signature, block.body) for block in blocks),
            FRAMES_MEDIA_TYPE,
            last=last,
        )

    def _ask_envelopes(self, contact: Contact, dek: DataKeyId, now: int) -> Ask | None:
        upload = self._spool.envelopes(dek)
        if upload is None:
            self._stick(
                contact,
                f"envelope_missing: {contact.collector} lacks the envelopes of data key {dek.hex()}, which "
                "the "
                "spool has not kept: restore them at the collector from a region",
                now,
            )
            return None
        what = f"envelopes/{dek.hex()}"
        return Ask("PUT", what, self._on_envelopes, upload.encode(), JSON_MEDIA_TYPE, dek=dek)

    def _on_head(self, flight: Flight, response: HttpResponse, _wall: int, now: int) -> None:
        answer = expect(response, flight.contact.collector, parse_head_answer)
        self._resume(flight.contact, answer, now)

    def _resume(self, contact: Contact, answer: HeadAnswer, now: int) -> None:
        contact.nonce = answer.nonce
        self._continue_from(contact, answer.accepted_seq, answer.head, now)

    def _continue_from(self, contact: Contact, accepted_seq: int, head: Digest, now: int) -> None:
        """The collector's head is ``accepted_seq`` with hash ``head``: go on from there, if it is ours."""
        state = self._enrolled()
        if accepted_seq > state.chain.seq:
            self._halt(
                f"rollback: {contact.collector} has block {accepted_seq} of this chain, and the spool of "
                f"this host ends at {state.chain.seq}: the state directory was restored from an old copy or "
                "cloned; move it aside and enrol this host again"
            )
        elif accepted_seq < state.first_seq - 1:
            self._stuck = (
                f"receipt_unfulfilled: {contact.collector} has this chain up to block {accepted_seq} only, "
                f"and this host holds a receipt for all before {state.first_seq}: rebuild the collector from "
                "a region"
            )
            self._fail_contact(contact, self._stuck, now)
        elif self._hash_at(accepted_seq, state) != head:
            self._halt(_fork(contact.collector, accepted_seq))
        else:
            self._spool.mark_accepted(accepted_seq)
            self._accepted_seq = self._sent_seq = accepted_seq
            self._receipts.accepted(accepted_seq, now)
            contact.resumed = True
            contact.head_due = False
            contact.wanted.clear()
            self._more = True

    def _hash_at(self, seq: int, state: SpoolState) -> bytes:
        """The hash of our own statement ``seq``, from one before the lowest kept to the head."""
        if seq == state.chain.seq:
            return state.chain.head
        if seq < state.first_seq:
            lowest = self._spool.entries(state.first_seq, 1)[0]
            return parse_block_header(lowest[:-SIGNATURE_BYTES]).prev
        return hashlib.sha256(self._spool.entries(seq, 1)[0]).digest()

    def _enrolled(self) -> SpoolState:
        state = self._spool.load()
        assert state is not None
        return state

    def _on_envelopes(self, flight: Flight, response: HttpResponse, _wall: int, _now: int) -> None:
        expect_nothing(response, flight.contact.collector)
        assert flight.dek is not None
        self._spool.mark_envelopes_accepted(flight.dek)
        flight.contact.uploaded.add(flight.dek)
        if flight.dek in flight.contact.wanted:
            flight.contact.wanted.remove(flight.dek)

    def _on_blocks(self, flight: Flight, response: HttpResponse, wall: int, now: int) -> None:
        contact = flight.contact
        answer = self._progress(flight, response)
        for dek in answer.want:
            if dek in contact.uploaded:
                raise RefusalError(
                    f"{contact.collector} asks again for the envelopes of data key {dek.hex()}, which it has "
                    "taken: look at its log"
                )
        if not flight.accepted_seq <= answer.accepted_seq <= flight.last:
            self._ask_head_again(contact, now)
            return
        if answer.accepted_seq == flight.accepted_seq and not answer.want:
            raise RefusalError(
                f"{contact.collector} took none of the blocks it was sent and did not say why: look at its "
                "log"
            )
        self._spool.mark_accepted(answer.accepted_seq)
        self._accepted_seq = answer.accepted_seq
        for dek in answer.want:
            self._spool.mark_envelopes_accepted(dek, accepted=False)
            contact.wanted.append(dek)
        if answer.accepted_seq > flight.accepted_seq:
            self._stuck = None
            self._singly = False
        if answer.accepted_seq == flight.last:
            self._batch_bytes = min(BATCH_MAX_BYTES, 2 * self._batch_bytes)
        self._receipts.accepted(answer.accepted_seq, now)
        self._take_receipt(flight, answer, wall, now)

    # Receipts and heartbeats

    def _next_question(self, contact: Contact, now: int) -> Ask | None:
        due_ns = self._receipts.due_ns()
        if not contact.resumed or due_ns is None or now < due_ns:
            return None
        asked = self._receipts.asked
        return Ask("GET", f"receipt?from={asked.first}&seen={asked.seen_size}", self._on_receipt)

    def _on_receipt(self, flight: Flight, response: HttpResponse, wall: int, now: int) -> None:
        answer = self._progress(flight, response)
        if answer.receipt is None:
            self._receipts.none_yet(now)
        self._take_receipt(flight, answer, wall, now)
        self._check_progress(flight, answer, now)

    def _next_heartbeat(self, contact: Contact, now: int) -> Ask | None:
        if not contact.resumed or contact.nonce is None or now < self._beat_ns:
            return None
        next_seq, head, signature = self._sign_heartbeat(contact.nonce)
        asked = self._receipts.asked
        beat = Heartbeat(next_seq, head, contact.nonce, signature, asked.first, asked.seen_size)
        self._beat_ns = now + self._heartbeat_ns
        return Ask("POST", "heartbeat", self._on_heartbeat, beat.encode(), JSON_MEDIA_TYPE)

    def _on_heartbeat(self, flight: Flight, response: HttpResponse, wall: int, now: int) -> None:
        answer = self._progress(flight, response)
        flight.contact.nonce = answer.nonce or flight.contact.nonce
        flight.contact.stale_nonces = 0
        self._take_receipt(flight, answer, wall, now)
        self._check_progress(flight, answer, now)

    def _progress(self, flight: Flight, response: HttpResponse) -> ProgressAnswer:
        answer = expect(response, flight.contact.collector, parse_progress_answer)
        if answer.published_seq > answer.accepted_seq:
            raise RefusalError(
                f"{flight.contact.collector} says it published more than it accepted: look at its log"
            )
        return answer

    def _take_receipt(self, flight: Flight, answer: ProgressAnswer, wall: int, now: int) -> None:
        if answer.receipt is not None:
            self._receipts.take(
                answer.receipt,
                flight.asked,
                published_seq=answer.published_seq,
                accepted_seq=min(answer.accepted_seq, self._sent_seq),
                wall_ns=wall,
                now_ns=now,
            )
            self._receipts.accepted(self._accepted_seq, now)

    def _check_progress(self, flight: Flight, answer: ProgressAnswer, now: int) -> None:
        """Ask for the head again where a collector lost blocks, or has some that nobody here sent."""
        if answer.accepted_seq < flight.accepted_seq or answer.accepted_seq > self._sent_seq:
            self._ask_head_again(flight.contact, now)

    def _ask_head_again(self, contact: Contact, now: int) -> None:
        contact.head_due = True
        contact.hold_ns = max(contact.hold_ns, now + RESUME_PAUSE_NS)

    # More than one collector

    def _next_probe(self, contact: Contact, now: int) -> HttpRequest | None:
        if not contact.resumed or self._flights.busy(Lane.PROBE, contact):
            return None
        collector = self._failover.probe(now)
        if collector is None:
            return None
        return self._send(Lane.PROBE, Contact(collector), Ask("GET", "head", self._on_probe), now)

    def _on_probe(self, flight: Flight, response: HttpResponse, _wall: int, now: int) -> None:
        answer = expect(response, flight.contact.collector, parse_head_answer)
        if self._halted is None:
            self._failover.take_back(flight.contact.collector, now)
            self._contact = flight.contact
            self._resume(flight.contact, answer, now)

    # What goes wrong

    def _on_refusal(self, flight: Flight, error: RefusalError, now: int) -> None:
        problem = error.problem
        if flight.lane is Lane.PROBE or problem is None:
            self._fail(flight, str(error), now, error.retry_after_s)
        elif problem.status == 409:
            self._on_conflict(flight, problem, str(error), now)
        elif problem.status == 413 and flight.lane is Lane.UPLOAD:
            self._on_too_large(flight, str(error), now)
        elif problem.status == 422 and flight.lane is Lane.UPLOAD:
            self._on_defect(flight, problem.code, str(error), now)
        elif problem.status == 422:
            self._stuck = f"{problem.code}: {error}"
            self._receipts.none_yet(now)
        else:
            self._fail(flight, str(error), now, error.retry_after_s)

    def _on_conflict(self, flight: Flight, problem: Problem, reason: str, now: int) -> None:
        """The collector's head is not where we thought; the head it names says how bad that is."""
        contact = flight.contact
        if problem.code == "stale_nonce":
            contact.nonce = problem.nonce or contact.nonce
            contact.stale_nonces += 1
            if contact.stale_nonces == 1:  # sign over the fresh one at once, but once only in a row
                self._beat_ns = now
        elif problem.code == "fork":
            self._halt(_fork(contact.collector, self._accepted_seq + 1))
        elif problem.accepted_seq is not None and flight.lane is Lane.UPLOAD:
            contact.hold_ns = now + RESUME_PAUSE_NS
            self._continue_from(contact, problem.accepted_seq, problem.head, now)
        elif problem.accepted_seq is not None:
            # A heartbeat that an upload overtook is none; a head that nobody here sent is looked at.
            if problem.accepted_seq > self._sent_seq:
                self._ask_head_again(contact, now)
        elif flight.dek is not None:
            self._stick(contact, f"{problem.code}: the envelopes of {flight.dek.hex()}: {reason}", now)
        else:
            self._fail(flight, reason, now)

    def _on_too_large(self, flight: Flight, reason: str, now: int) -> None:
        if flight.last > flight.accepted_seq + 1:
            self._singly = self._batch_bytes == BATCH_MIN_BYTES
            self._batch_bytes = max(BATCH_MIN_BYTES, self._batch_bytes // 2)
            return
        what = f"block {flight.last}" if flight.last >= 0 else "an upload of envelopes"
        self._stick(
            flight.contact,
            f"too_large: {what} is larger than the collector takes ({reason}): raise its request limit",
            now,
        )

    def _on_defect(self, flight: Flight, code: str, reason: str, now: int) -> None:
        if flight.last > flight.accepted_seq + 1:  # find out which one it is
            self._singly = True
            self._last_error = reason
            self._ask_head_again(flight.contact, now)
            return
        what = f"block {flight.last}" if flight.last >= 0 else "an upload"
        self._stick(
            flight.contact,
            f"{code}: {what} is called defective ({reason}): nothing after it is forwarded until the cause "
            "is "
            "found, here or at the collector",
            now,
        )

    def _stick(self, contact: Contact, finding: str, now: int) -> None:
        self._stuck = finding
        contact.head_due = True
        contact.hold_ns = now + REFUSED_RETRY_NS

    def _halt(self, finding: str) -> None:
        self._halted = finding
        self._contact = None

    def _fail(self, flight: Flight, reason: str, now: int, retry_after_s: int = 0) -> None:
        if flight.lane is Lane.PROBE:
            self._failover.failed(flight.contact.collector, now, retry_after_s)
            return
        if flight.contact is not self._contact:
            return
        self._last_error = reason
        if flight.last >= 0:
            self._batch_bytes = max(BATCH_MIN_BYTES, self._batch_bytes // 2)
        if flight.lane is not Lane.UPLOAD and self._flights.busy(Lane.UPLOAD, self._contact):
            # A full link delays small requests; the upload's own end tells whether the collector is there.
            self._receipts.none_yet(now)
            return
        self._fail_contact(flight.contact, reason, now, retry_after_s)

    def _fail_contact(self, contact: Contact, reason: str, now: int, retry_after_s: int = 0) -> None:
        self._failover.failed(contact.collector, now, retry_after_s)
        self._last_error = reason
        self._contact = None

    def _send(self, lane: Lane, contact: Contact, ask: Ask, now: int) -> HttpRequest:
        return self._flights.send(
            lane, contact, ask, now, asked=self._receipts.asked, accepted_seq=self._accepted_seq
        )


def _fork(collector: str, seq: int) -> str:
    return (
        f"fork: {collector} has another block {seq} of this chain than this host: the state directory was "
        "cloned, or its key stolen; revoke this agent and enrol the host again"
    )
