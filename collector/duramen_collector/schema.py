"""The collector's tables, in SQLAlchemy Core: the same on SQLite and PostgreSQL.

What lies where: ``landing`` holds accepted statements with their bodies until they are published; then the
regions are the truth, and the database keeps what answering needs (``entries``, ``tiles``,
``checkpoints``), all of which a region can give back. ``sequencing`` and ``signed`` are what PROTOCOL.md
wants remembered. Digests are 32 raw bytes; times are Unix ns; sizes are bytes.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_RowId = BigInteger().with_variant(Integer, "sqlite")  # SQLite makes a rowid of INTEGER only

tenants: Final = Table(
    "tenants",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("origin", String(255), nullable=False, unique=True),
    Column("public", Boolean, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

tokens: Final = Table(
    "tokens",
    metadata,
    Column("token_id", String(32), primary_key=True),
    Column(
        "digest", LargeBinary(32), nullable=False, unique=True
    ),  # HMAC-SHA-256 of the token under the pepper
    Column("tenant", String(63), nullable=True),  # NULL: every tenant
    Column("role", String(16), nullable=False),  # viewer, auditor, operator, admin
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("revoked_ns", BigInteger, nullable=True),
)

enrolments: Final = Table(
    "enrolments",
    metadata,
    Column(
        "digest", LargeBinary(32), primary_key=True
    ),  # HMAC-SHA-256 of the one-time token under the pepper
    Column("tenant", String(63), nullable=False),
    Column("agent", String(253), nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column(
        "used_by", LargeBinary(32), nullable=True
    ),  # SHA-256 of the genesis' hash and the certified public key
    ForeignKeyConstraint(["tenant"], ["tenants.tenant"]),
)

chains: Final = Table(
    "chains",
    metadata,
    Column("chain", LargeBinary(32), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("agent", String(253), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("head", LargeBinary(32), nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("next_public", LargeBinary(32), nullable=False),
    Column("sealed_ns", BigInteger, nullable=False),
    Column("stopped", Boolean, nullable=False),
    Column("keys", JSON, nullable=False),  # [[group, class, dek hex, next step, since ns], ...]
    Column("published_seq", BigInteger, nullable=False),  # -1: none yet
    Column("seen_size", BigInteger, nullable=False),
    Column("heard_ns", BigInteger, nullable=False),  # last block or verified heartbeat
    Column("announced_seq", BigInteger, nullable=False),  # highest next_seq that a verified heartbeat signed
    UniqueConstraint("tenant", "agent"),
    ForeignKeyConstraint(["tenant"], ["tenants.tenant"]),
)

envelopes: Final = Table(
    "envelopes",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("dek", LargeBinary(16), primary_key=True),
    Column("key_hash", LargeBinary(32), primary_key=True),
    Column("chain", LargeBinary(32), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column(
        "keys_seq", BigInteger, nullable=True
    ),  # the keys block that commits to it; NULL until that is accepted
    Index(None, "chain", "keys_seq"),
)

forks: Final = Table(
    "forks",
    metadata,
    Column("chain", LargeBinary(32), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("hash", LargeBinary(32), primary_key=True),  # of the statement that was not accepted
    Column("tenant", String(63), nullable=False),
    Column("statement", LargeBinary, nullable=True),  # NULL: known from a heartbeat only
    Column(
        "signature", String(16), nullable=False
    ),  # valid; unchecked where the signing key is no longer at hand
    Column("seen_ns", BigInteger, nullable=False),
    ForeignKeyConstraint(["chain"], ["chains.chain"]),
)

announcements: Final = Table(
    "announcements",
    metadata,
    Column("chain", LargeBinary(32), primary_key=True),
    Column(
        "next_seq", BigInteger, nullable=False
    ),  # of a heartbeat ahead of what was accepted, so not verified yet
    Column("head", LargeBinary(32), nullable=False),
    Column("nonce", LargeBinary(32), nullable=False),
    Column("signature", LargeBinary(64), nullable=False),
    Column("heard_ns", BigInteger, nullable=False),
    ForeignKeyConstraint(["chain"], ["chains.chain"]),
)

landing: Final = Table(
    "landing",
    metadata,
    Column("landing_id", _RowId, primary_key=True, autoincrement=True),
    Column("tenant", String(63), nullable=False),
    Column("chain", LargeBinary(32), nullable=True),  # NULL for notices
    Column("seq", BigInteger, nullable=True),
    Column("hash", LargeBinary(32), nullable=False),
    Column("header_size", Integer, nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("retention_class", SmallInteger, nullable=True),  # NULL: goes with any
    Column("dek", LargeBinary(16), nullable=True),  # data key whose envelopes must lie in k regions first
    Column("accepted_ns", BigInteger, nullable=False),
    UniqueConstraint("tenant", "hash"),
    UniqueConstraint("chain", "seq"),
    Index(None, "tenant", "landing_id"),
)

entries: Final = Table(
    "entries",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("leaf", BigInteger, primary_key=True),
    Column("hash", LargeBinary(32), nullable=False),  # of the statement, not the leaf hash
    Column("chain", LargeBinary(32), nullable=True),
    Column("seq", BigInteger, nullable=True),
    UniqueConstraint("tenant", "hash"),
    Index(None, "chain", "seq"),
)

packs: Final = Table(
    "packs",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("first_leaf", BigInteger, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),  # which pack holds the statements from this leaf on
)

tiles: Final = Table(
    "tiles",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("level", SmallInteger, primary_key=True),
    Column("tile", BigInteger, primary_key=True),
    Column("hashes", LargeBinary, nullable=False),  # as C2SP tlog-tiles; shorter than 8192 for the rightmost
)

checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("size", BigInteger, primary_key=True),
    Column("note", Text, nullable=False),
    Column("signed_ns", BigInteger, nullable=False),
)

sequencing: Final = Table(
    "sequencing",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column(
        "pack_digest", LargeBinary(32), nullable=False
    ),  # of the last finished pack; zero before the first
    Column("size", BigInteger, nullable=False),  # finished size and root
    Column("root", LargeBinary(32), nullable=False),
    Column("pending_pack", LargeBinary, nullable=True),  # bytes fixed before publishing, until finished
    Column("remembered", JSON, nullable=False),  # {region: highest head seen}: lower ones are quarantined
)

signed: Final = Table(
    "signed",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("size", BigInteger, primary_key=True),
    Column("root", LargeBinary(32), nullable=False),
)

verifications: Final = Table(
    "verifications",
    metadata,
    Column("verification_id", String(32), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("depth", String(16), nullable=False),  # headers, bodies
    Column("started_ns", BigInteger, nullable=False),
    Column("finished_ns", BigInteger, nullable=True),
    Column("verdict", String(16), nullable=True),
    Column("report", JSON, nullable=False),
    Index(None, "tenant", "started_ns"),
)
