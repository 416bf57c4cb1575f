"""Enrolment: a one-time token, a signing request and a genesis become a certificate and a chain.

The token says for whom; the request's public key is certified for that name; the genesis must name the same
tenant and agent, commit to this tenant's log and its keys, and be signed by its own key. Genesis and a
signed ``enrol`` notice land in one transaction with the chain. The same request again (same token, key and
genesis) gets the same chain and a fresh certificate; once the token has expired, it gets nothing.

An agent that has a chain keeps it: another genesis under its name is refused, whoever holds a token,
because a replacement chain is a finding that an operator has to approve first. The same genesis under a
fresh token is served: the operator who made the token let a new key speak for that agent, and the chain
goes on unchanged.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from duramen.api import EnrollAnswer, EnrollRequest
from duramen.chain import begin
from duramen.errors import FormatError
from duramen.names import ChainId
from duramen.ports import Random
from duramen.statement import Block, BlockKind, parse_statement
from duramen_collector.authority import AgentIdentity, Authority, parse_request
from duramen_collector.chainstate import demand_storable, find_agent, insert_chain
from duramen_collector.landing import land_block, land_notice
from duramen_collector.logkeys import KeyRing, TenantKeys
from duramen_collector.refusal import refuse
from duramen_collector.tenancy import demand_tenant
from duramen_collector.tokens import Enrolment, Pepper, find_enrolment, use_enrolment


def enrol(
    connection: sa.Connection,
    request: EnrollRequest,
    *,
    authority: Authority,
    log_keys: KeyRing,
    pepper: Pepper,
    random: Random,
    now_ns: int,
) -> EnrollAnswer:
    """Enrol an agent; Refused, FormatError or IntegrityError when anything about the request is wrong."""
    enrolment = find_enrolment(connection, pepper, request.token, now_ns)
    certified = parse_request(request.csr_pem)
    genesis = _genesis(request.genesis)
    tenant = demand_tenant(connection, enrolment.tenant)
    keys = log_keys.load(tenant.tenant, tenant.origin)
    state = begin(genesis)
    _check_genesis(genesis, enrolment, keys)
    demand_storable(genesis.header)
    use_enrolment(connection, enrolment, hashlib.sha256(genesis.hash + certified.public_der).digest())
    certificate_pem = authority.issue_client(
        AgentIdentity(enrolment.tenant, enrolment.agent), certified, now_ns, random
    )
    present = find_agent(connection, enrolment.tenant, enrolment.agent)
    if present is None:
        insert_chain(connection, state, now_ns)
        land_block(connection, tenant.tenant, genesis, b"", now_ns)
    elif present.state.chain != state.chain:
        raise refuse(
            409,
            "already_enrolled",
            f"agent {enrolment.agent} has a chain already; restore its state directory, or have an operator "
            "approve a replacement",
        )
    if enrolment.used_by is None:
        _land_enrol_notice(connection, enrolment, state.chain, certified.public_der, keys, now_ns)
    return EnrollAnswer(certificate_pem.decode() + authority.certificate_pem.decode(), state.chain)


def _genesis(data: bytes) -> Block:
    statement = parse_statement(data)
    if not isinstance(statement, Block) or statement.header.kind is not BlockKind.GENESIS:
        raise FormatError("an enrolment carries a genesis block")
    return statement


def _check_genesis(genesis: Block, enrolment: Enrolment, keys: TenantKeys) -> None:
    claims = genesis.header.genesis
    assert claims is not None
    if (claims.tenant, claims.agent) != (enrolment.tenant, enrolment.agent):
        raise refuse(
            403,
            "not_enrolled",
            "the token is for another tenant or agent than the genesis names; ask for a new one",
        )
    if claims.log != keys.digest():
        raise refuse(
            422,
            "header_corrupt",
            "the genesis commits to other log keys than this tenant's; use the whole join string",
        )
    if any(claims.replaces):
        raise refuse(
            409,
            "already_enrolled",
            "a replacement of a chain has to be approved by an operator, which is not served yet",
        )


def _land_enrol_notice(
    connection: sa.Connection,
    enrolment: Enrolment,
    chain: ChainId,
    public_der: bytes,
    keys: TenantKeys,
    now_ns: int,
) -> None:
    fields = {
        "agent": enrolment.agent,
        "certified": hashlib.sha256(public_der).hexdigest(),
        "chain": chain.hex(),
        "token": hashlib.sha256(enrolment.digest).hexdigest()[:16],
    }
    land_notice(connection, enrolment.tenant, keys.notice.sign("enrol", now_ns, {**fields}), now_ns)
