"""What the collector does for each request, as plain functions of a database connection.

No web framework and no thread in here: :mod:`duramen_collector.app` brings requests in and runs what writes
in the writer's thread; a simulation calls the same functions directly. Agents' requests come with the
identity in their certificate, people's with their Authorization header. Refusals are raised as
DuramenErrors (:func:`duramen_collector.refusal.problem_of` makes documents of them), except where what was
learned must be kept although the answer is no: then a :class:`~duramen_collector.judgement.Judged` carries
the problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from duramen.api import (
    EnrollAnswer,
    EnrollRequest,
    EnvelopeUpload,
    HeadAnswer,
    Heartbeat,
    Problem,
    ProgressAnswer,
)
from duramen.names import ChainId, DataKeyId, Seq
from duramen.ports import Clock, Random
from duramen.receipt import Receipt
from duramen_collector.authority import AgentIdentity, Authority
from duramen_collector.chainstate import StoredChain, demand_chain, find_chain, list_chains
from duramen_collector.enrolment import enrol
from duramen_collector.heartbeats import Announcement, receive_heartbeat
from duramen_collector.ingest import Upload, receive_blocks, receive_envelopes
from duramen_collector.judgement import Judged
from duramen_collector.logkeys import KeyRing, NoticeSigner
from duramen_collector.receipts import build_receipt
from duramen_collector.refusal import Refused, refuse
from duramen_collector.schema import checkpoints, forks
from duramen_collector.tenancy import Tenant, demand_tenant, find_tenant
from duramen_collector.tokens import Pepper, Principal, authenticate


@dataclass(frozen=True, slots=True)
class ChainSummary:
    """A chain as people see it; hashes in hex, times in Unix ns."""

    chain: str
    agent: str
    accepted_seq: int
    published_seq: int
    head: str
    records: int
    sealed_ns: int
    heard_ns: int
    stopped: bool
    announced_seq: int
    """Highest next sequence number that a verified heartbeat signed."""
    unverified_seq: int | None
    """Next sequence number of a heartbeat that ran ahead of what was received; None when there is none."""
    forks: int
    """Statements that were refused because their places were taken."""


class Service:
    """The collector behind its front door. Methods that write say so; all others read."""

    def __init__(
        self,
        *,
        authority: Authority,
        log_keys: KeyRing,
        pepper: Pepper,
        clock: Clock,
        random: Random,
    ) -> None:
        self._authority = authority
        self._log_keys = log_keys
        self._pepper = pepper
        self._clock = clock
        self._random = random
        self._stepped_down: dict[str, str] = {}

    def step_down(self, tenant: str, reason: str) -> None:
        """Refuse a tenant's blocks and envelopes from now on: another sequencer took its log over."""
        self._stepped_down[tenant] = reason

    def resume(self, tenant: str) -> None:
        """Accept a tenant's blocks again: this collector has acquired its log."""
        self._stepped_down.pop(tenant, None)

    def identify(self, certificate_der: bytes | None) -> AgentIdentity | None:
        """Who a client certificate speaks for.

        None without one, or with one that is not ours or out of date.
        """
        return (
            None
            if certificate_der is None
            else self._authority.identify(certificate_der, self._clock.wall_ns())
        )

    def enrol(self, connection: sa.Connection, request: EnrollRequest) -> EnrollAnswer:
        """Writes. ``POST /v1/enroll``."""
        return enrol(
            connection,
            request,
            authority=self._authority,
            log_keys=self._log_keys,
            pepper=self._pepper,
            random=self._random,
            now_ns=self._clock.wall_ns(),
        )

    def head(self, connection: sa.Connection, peer: AgentIdentity | None, chain: ChainId) -> HeadAnswer:
        """``GET /v1/chains/{chain}/head``."""
        stored = demand_chain(connection, peer, chain)
        return HeadAnswer(
            accepted_seq=stored.state.seq,
            head=stored.state.head,
            published_seq=stored.published_seq,
            nonce=self._pepper.nonce(chain, self._clock.wall_ns()),
        )

    def put_envelopes(
        self,
        connection: sa.Connection,
        peer: AgentIdentity | None,
        chain: ChainId,
        dek: DataKeyId,
        upload: EnvelopeUpload,
    ) -> None:
        """Writes. ``PUT /v1/chains/{chain}/envelopes/{dek}``."""
        stored = demand_chain(connection, peer, chain)
        self._demand_sequencer(stored)
        receive_envelopes(connection, stored, dek, upload)

    def receive(
        self,
        connection: sa.Connection,
        peer: AgentIdentity | None,
        chain: ChainId,
        uploads: Sequence[Upload],
    ) -> Judged:
        """Writes. ``POST /v1/chains/{chain}/blocks``."""
        stored = demand_chain(connection, peer, chain)
        self._demand_sequencer(stored)
        signer = self._notice_signer(connection, stored)
        return receive_blocks(connection, stored, uploads, signer, self._clock.wall_ns())

    def heartbeat(
        self, connection: sa.Connection, peer: AgentIdentity | None, chain: ChainId, heartbeat: Heartbeat
    ) -> Judged:
        """Writes. ``POST /v1/chains/{chain}/heartbeat``."""
        stored = demand_chain(connection, peer, chain)
        signer = self._notice_signer(connection, stored)
        now_ns = self._clock.wall_ns()
        return receive_heartbeat(connection, stored, heartbeat, signer, self._pepper, now_ns)

    def progress(
        self,
        connection: sa.Connection,
        peer: AgentIdentity | None,
        chain: ChainId,
        receipt_from: int,
        seen_size: int,
        *,
        want: tuple[DataKeyId, ...] = (),
        beat: bool = False,
    ) -> ProgressAnswer:
        """How far the chain is, with the receipt that is due from ``receipt_from``.

        A nonce in answer to a beat.
        """
        stored = demand_chain(connection, peer, chain)
        return ProgressAnswer(
            accepted_seq=stored.state.seq,
            published_seq=stored.published_seq,
            receipt=self._receipt(connection, stored, receipt_from, seen_size),
            want=want,
            nonce=self._pepper.nonce(chain, self._clock.wall_ns()) if beat else None,
        )

    def authorise(self, connection: sa.Connection, authorization: str, role: str, tenant: str) -> Principal:
        """Whom an Authorization header speaks for, if that one has ``role`` for ``tenant``.

        Refused otherwise. A token for one tenant gets the same 403 for every other, existing or not.
        """
        principal = authenticate(connection, self._pepper, authorization, self._clock.wall_ns())
        if not principal.may(role, tenant):
            raise refuse(403, "forbidden", f"this token does not have the role {role} for this tenant")
        demand_tenant(connection, tenant)
        return principal

    def authorise_static(self, connection: sa.Connection, authorization: str, tenant: str) -> None:
        """As :meth:`authorise` for a viewer; anyone may when the tenant is public."""
        found = find_tenant(connection, tenant)
        if found is None or not found.public:
            self.authorise(connection, authorization, "viewer", tenant)

    def chains(self, connection: sa.Connection, tenant: str) -> list[ChainSummary]:
        """A tenant's chains by agent."""
        return [_summary(connection, stored) for stored in list_chains(connection, tenant)]

    def chain(self, connection: sa.Connection, tenant: str, chain: ChainId) -> ChainSummary:
        """One chain of a tenant; 404 when there is none."""
        stored = find_chain(connection, chain)
        if stored is None or stored.state.tenant != tenant:
            raise refuse(404, "not_found", "there is no such chain in this tenant")
        return _summary(connection, stored)

    def checkpoint(self, connection: sa.Connection, tenant: str) -> bytes:
        """The newest published checkpoint; 404 before the first."""
        query = sa.select(checkpoints.c.note).where(checkpoints.c.tenant == tenant)
        row = connection.execute(query.order_by(checkpoints.c.size.desc()).limit(1)).first()
        if row is None:
            raise refuse(404, "not_found", "nothing of this tenant's log is published yet")
        return str(row.note).encode()

    def tenant(self, connection: sa.Connection, tenant: str) -> Tenant:
        """The tenant; 404 when there is none."""
        return demand_tenant(connection, tenant)

    def _receipt(
        self, connection: sa.Connection, stored: StoredChain, receipt_from: int, seen_size: int
    ) -> Receipt | None:
        if receipt_from > stored.published_seq:
            return None
        return build_receipt(connection, stored.state.chain, Seq(receipt_from), seen_size)

    def _notice_signer(self, connection: sa.Connection, stored: StoredChain) -> NoticeSigner:
        tenant = demand_tenant(connection, stored.state.tenant)
        return self._log_keys.load(tenant.tenant, tenant.origin).notice

    def _demand_sequencer(self, stored: StoredChain) -> None:
        reason = self._stepped_down.get(stored.state.tenant)
        if reason is not None:
            raise Refused(Problem(503, "stepped_down", reason))


def _summary(connection: sa.Connection, stored: StoredChain) -> ChainSummary:
    state = stored.state
    announced = Announcement.find(connection, state.chain)
    query = sa.select(sa.func.count()).select_from(forks).where(forks.c.chain == state.chain)
    return ChainSummary(
        chain=state.chain.hex(),
        agent=state.agent,
        accepted_seq=state.seq,
        published_seq=stored.published_seq,
        head=state.head.hex(),
        records=state.records,
        sealed_ns=state.sealed_ns,
        heard_ns=stored.heard_ns,
        stopped=state.stopped,
        announced_seq=stored.announced_seq,
        unverified_seq=None if announced is None else announced.next_seq,
        forks=connection.execute(query).scalar_one(),
    )
