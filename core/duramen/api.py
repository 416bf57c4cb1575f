"""The agents' HTTP contract: what travels between agent and collector besides frames (docs/CONTRACT.md).

Agent (client certificate)::

    POST /v1/enroll                                EnrollRequest -> EnrollAnswer (one-time token)
    GET  /v1/chains/{chain}/head                   -> HeadAnswer
    PUT  /v1/chains/{chain}/envelopes/{dek}        EnvelopeUpload -> 204 (before the first block)
    POST /v1/chains/{chain}/blocks?from=S&seen=N   frames -> ProgressAnswer
    POST /v1/chains/{chain}/heartbeat              Heartbeat -> ProgressAnswer
    GET  /v1/chains/{chain}/receipt?from=S&seen=N  -> ProgressAnswer

``from`` is the first sequence number the agent holds without a receipt, ``seen`` the size of the checkpoint
it verified last: with both the collector can answer a receipt whenever one is due. Every refusal is a
:class:`Problem` (RFC 9457, application/problem+json). JSON is read with unknown fields refused; hashes are
hex, envelopes and statements base64.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from duramen import canonical
from duramen.canonical import Fields, Json
from duramen.envelope import check_envelope
from duramen.errors import FormatError
from duramen.limits import RECIPIENTS_MAX, STATEMENT_MAX_BYTES
from duramen.names import ZERO_DIGEST, ChainId, DataKeyId, Digest, Seq, check_agent, check_tenant
from duramen.receipt import Receipt, parse_receipt

JSON_MEDIA_TYPE: Final = "application/json"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
PROBLEM_TYPE_PREFIX: Final = "urn:duramen:problem:"
MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""A POST of blocks; a collector may allow less and then answers 413."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_JOIN_PREFIX: Final = "duramen-join-1."
_MAX_SEQ: Final = 2**63 - 1


def enroll_path() -> str:
    """Where an agent enrols."""
    return "/v1/enroll"


def chain_path(chain: ChainId, what: str) -> str:
    """``what`` is head, blocks, heartbeat, receipt or ``envelopes/{dek}``."""
    return f"/v1/chains/{chain.hex()}/{what}"


@dataclass(frozen=True, slots=True)
class JoinString:
    """What ``duramen-collector enroll-token`` prints and ``duramen-agent enroll`` reads.

    All that enrolling needs.
    """

    tenant: str
    agent: str
    collectors: tuple[str, ...]
    """Base URLs in order of preference."""
    ca_pem: str
    """The collector's certificate authority: the first connection is checked like every later one."""
    log_keys: tuple[str, str]
    """Verifier keys of the tenant log: Ed25519, ML-DSA-44."""
    token: str

    def encode(self) -> str:
        """One line of text without white space."""
        value: Json = {
            "agent": self.agent,
            "ca": self.ca_pem,
            "collectors": list(self.collectors),
            "log_keys": list(self.log_keys),
            "tenant": self.tenant,
            "token": self.token,
        }
        return _JOIN_PREFIX + base64.urlsafe_b64encode(canonical.encode(value)).decode().rstrip("=")


def parse_join_string(text: str) -> JoinString:
    """A join string from its text, surrounding white space ignored; FormatError otherwise."""
    text = text.strip()
    if not text.startswith(_JOIN_PREFIX) or len(text) > 65_536:
        raise FormatError(
            f"a join string begins with {_JOIN_PREFIX}; copy the whole line that enroll-token printed"
        )
    packed = text.removeprefix(_JOIN_PREFIX)
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("the join string is cut off or changed: copy the whole line again") from error
    fields = Fields(canonical.decode(data, "a join string"), "a join string")
    log_keys = _texts(fields, "log_keys", 2)
    if len(log_keys) != 2:
        raise FormatError("a join string names two log keys")
    join = JoinString(
        tenant=check_tenant(fields.text("tenant")),
        agent=check_agent(fields.text("agent")),
        collectors=_texts(fields, "collectors", 16),
        ca_pem=fields.text("ca", 32_768),
        log_keys=(log_keys[0], log_keys[1]),
        token=fields.text("token", 256),
    )
    fields.finish()
    return join


@dataclass(frozen=True, slots=True)
class EnrollRequest:
    """A certificate signing request (PEM) and a chain's genesis statement, under a one-time token.

    Sending the same request again gives the same answer, so a crash between the two loses nothing.
    """

    token: str
    csr_pem: str
    genesis: bytes

    def encode(self) -> bytes:
        """The request's body."""
        return canonical.encode({"csr": self.csr_pem, "genesis": _b64(self.genesis), "token": self.token})


def parse_enroll_request(data: bytes) -> EnrollRequest:
    """An enrolment request; FormatError otherwise."""
    fields = _fields(data, "an enrolment request")
    request = EnrollRequest(
        token=fields.text("token", 256),
        csr_pem=fields.text("csr", 16_384),
        genesis=_unb64(fields.text("genesis", 2 * STATEMENT_MAX_BYTES)),
    )
    fields.finish()
    return request


@dataclass(frozen=True, slots=True)
class EnrollAnswer:
    """The agent's certificate chain (PEM) and its chain's id."""

    certificate_pem: str
    chain: ChainId

    def encode(self) -> bytes:
        """The answer's body."""
        return canonical.encode({"certificate": self.certificate_pem, "chain": self.chain.hex()})


def parse_enroll_answer(data: bytes) -> EnrollAnswer:
    """An enrolment answer; FormatError otherwise."""
    fields = _fields(data, "the answer to an enrolment")
    answer = EnrollAnswer(fields.text("certificate", 65_536), ChainId(fields.hexed("chain", 32)))
    fields.finish()
    return answer


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What the collector holds of a chain, and the nonce for its next heartbeat."""

    accepted_seq: Seq
    head: Digest
    """Hash of the statement ``accepted_seq``."""
    published_seq: int
    """-1 while nothing of the chain is published."""
    nonce: bytes

    def encode(self) -> bytes:
        """The answer's body."""
        return canonical.encode(
            {
                "accepted_seq": canonical.wide(self.accepted_seq),
                "head": self.head.hex(),
                "nonce": self.nonce.hex(),
                "published_seq": canonical.wide(self.published_seq),
            }
        )


def parse_head_answer(data: bytes) -> HeadAnswer:
    """A head answer; FormatError otherwise."""
    fields = _fields(data, "the answer to a question for the head")
    answer = HeadAnswer(
        accepted_seq=Seq(fields.uint("accepted_seq", _MAX_SEQ)),
        head=Digest(fields.hexed("head", 32)),
        published_seq=_published(fields),
        nonce=fields.hexed("nonce", 32),
    )
    fields.finish()
    return answer


@dataclass(frozen=True, slots=True)
class EnvelopeUpload:
    """All envelopes of one data key, by SHA-256 of the recipient's public key."""

    envelopes: tuple[tuple[Digest, bytes], ...]

    def encode(self) -> bytes:
        """The request's body."""
        return canonical.encode(
            {"envelopes": {key.hex(): _b64(envelope) for key, envelope in self.envelopes}}
        )


def parse_envelope_upload(data: bytes) -> EnvelopeUpload:
    """An envelope upload, each checked for its form; FormatError otherwise."""
    fields = _fields(data, "an envelope upload")
    envelopes = []
    for key, text in fields.labels("envelopes", RECIPIENTS_MAX).items():
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise FormatError("an envelope is named by the hash of its recipient's key in lower-case hex")
        envelope = _unb64(text)
        check_envelope(envelope)
        envelopes.append((Digest(bytes.fromhex(key)), envelope))
    fields.finish()
    if not envelopes:
        raise FormatError("an envelope upload holds at least one envelope")
    return EnvelopeUpload(tuple(sorted(envelopes)))


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Signed with the key of block ``next_seq``, which the agent has not sealed yet (DESIGN 2.3)."""

    next_seq: Seq
    head: Digest
    nonce: bytes
    signature: bytes
    receipt_from: Seq
    seen_size: int

    def encode(self) -> bytes:
        """The request's body."""
        return canonical.encode(
            {
                "from": canonical.wide(self.receipt_from),
                "head": self.head.hex(),
                "next_seq": canonical.wide(self.next_seq),
                "nonce": self.nonce.hex(),
                "seen": canonical.wide(self.seen_size),
                "signature": self.signature.hex(),
            }
        )


def parse_heartbeat(data: bytes) -> Heartbeat:
    """A heartbeat; FormatError otherwise."""
    fields = _fields(data, "a heartbeat")
    heartbeat = Heartbeat(
        next_seq=Seq(fields.uint("next_seq", _MAX_SEQ)),
        head=Digest(fields.hexed("head", 32)),
        nonce=fields.hexed("nonce", 32),
        signature=fields.hexed("signature", 64),
        receipt_from=Seq(fields.uint("from", _MAX_SEQ)),
        seen_size=fields.uint("seen", _MAX_SEQ),
    )
    fields.finish()
    return heartbeat


@dataclass(frozen=True, slots=True)
class ProgressAnswer:
    """How far the collector is with a chain; the answer to blocks, heartbeats and receipt questions."""

    accepted_seq: Seq
    published_seq: int
    """-1 while nothing of the chain is published."""
    receipt: Receipt | None = None
    want: tuple[DataKeyId, ...] = ()
    """Data keys whose envelopes are missing.

    The blocks from the first one under them on were not accepted.
    """
    nonce: bytes | None = None
    """For the next heartbeat; only in the answer to one."""

    def encode(self) -> bytes:
        """The answer's body."""
        value: dict[str, Json] = {
            "accepted_seq": canonical.wide(self.accepted_seq),
            "published_seq": canonical.wide(self.published_seq),
        }
        if self.receipt is not None:
            value["receipt"] = self.receipt.to_json()
        if self.want:
            value["want"] = [dek.hex() for dek in self.want]
        if self.nonce is not None:
            value["nonce"] = self.nonce.hex()
        return canonical.encode(value)


def parse_progress_answer(data: bytes) -> ProgressAnswer:
    """A progress answer; FormatError otherwise."""
    fields = _fields(data, "the collector's answer")
    want = _texts(fields, "want", RECIPIENTS_MAX) if fields.has("want") else ()
    if not all(re.fullmatch(r"[0-9a-f]{32}", item) for item in want):
        raise FormatError("the collector wants envelopes of something that is not a data key id")
    answer = ProgressAnswer(
        accepted_seq=Seq(fields.uint("accepted_seq", _MAX_SEQ)),
        published_seq=_published(fields),
        receipt=parse_receipt(fields.take("receipt")) if fields.has("receipt") else None,
        want=tuple(DataKeyId(bytes.fromhex(item)) for item in want),
        nonce=fields.hexed("nonce", 32) if fields.has("nonce") else None,
    )
    fields.finish()
    return answer


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal (RFC 9457).

    ``code`` is the last part of ``type``; fork and gap carry the collector's head.
    """

    status: int
    code: str
    """fork, gap, replay, stale_nonce, too_large, busy, not_enrolled, stepped_down, ..., or a finding code."""
    detail: str
    """One sentence that says what to do."""
    accepted_seq: int | None = None
    head: Digest = ZERO_DIGEST
    nonce: bytes | None = None

    def encode(self) -> bytes:
        """The answer's body."""
        value: dict[str, Json] = {
            "detail": self.detail,
            "status": self.status,
            "title": self.code.replace("_", " "),
            "type": PROBLEM_TYPE_PREFIX + self.code,
        }
        if self.accepted_seq is not None:
            value["accepted_seq"] = canonical.wide(self.accepted_seq)
            value["head"] = self.head.hex()
        if self.nonce is not None:
            value["nonce"] = self.nonce.hex()
        return canonical.encode(value)


def parse_problem(data: bytes) -> Problem:
    """A problem document of ours; FormatError for anything else that answered."""
    fields = _fields(data, "a problem document")
    type_ = fields.text("type", 256)
    if not type_.startswith(PROBLEM_TYPE_PREFIX):
        raise FormatError("the answer is a problem document, but not a collector's")
    fields.text("title", 256)
    accepted = fields.has("accepted_seq")
    problem = Problem(
        status=fields.uint("status", 599),
        code=type_.removeprefix(PROBLEM_TYPE_PREFIX),
        detail=fields.text("detail", 8192),
        accepted_seq=fields.uint("accepted_seq", _MAX_SEQ) if accepted else None,
        head=Digest(fields.hexed("head", 32)) if accepted else ZERO_DIGEST,
        nonce=fields.hexed("nonce", 32) if fields.has("nonce") else None,
    )
    fields.finish()
    return problem


def _fields(data: bytes, what: str) -> Fields:
    return Fields(canonical.read(data, what), what)


def _published(fields: Fields) -> int:
    value = fields.take("published_seq")
    return (
        -1 if value == -1 else Fields({"published_seq": value}, "the answer").uint("published_seq", _MAX_SEQ)
    )


def _texts(fields: Fields, key: str, limit: int) -> tuple[str, ...]:
    items = fields.items(key, limit)
    if not items or not all(isinstance(item, str) and len(item) <= 4096 for item in items):
        raise FormatError(f"the field {key!r} is not a list of 1 to {limit} strings")
    return tuple(str(item) for item in items)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("a field that should be base64 is not") from error
    if _b64(data) != text:
        raise FormatError("a base64 field has bits after its end")
    return data
