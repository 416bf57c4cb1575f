"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "checkpoints",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("signed_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "size", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "entries",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("leaf", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("chain", sa.LargeBinary(length=32), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "leaf", name=op.f("pk_entries")),
        sa.UniqueConstraint("tenant", "hash", name=op.f("uq_entries_tenant_hash")),
    )
    op.create_index(op.f("ix_entries_chain_seq"), "entries", ["chain", "seq"], unique=False)
    op.create_table(
        "envelopes",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("dek", sa.LargeBinary(length=16), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("chain", sa.LargeBinary(length=32), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("keys_seq", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "dek", "key_hash", name=op.f("pk_envelopes")),
    )
    op.create_index(op.f("ix_envelopes_chain_keys_seq"), "envelopes", ["chain", "keys_seq"], unique=False)
    op.create_table(
        "landing",
        sa.Column(
            "landing_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("chain", sa.LargeBinary(length=32), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("header_size", sa.Integer(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("retention_class", sa.SmallInteger(), nullable=True),
        sa.Column("dek", sa.LargeBinary(length=16), nullable=True),
        sa.Column("accepted_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("landing_id", name=op.f("pk_landing")),
        sa.UniqueConstraint("chain", "seq", name=op.f("uq_landing_chain_seq")),
        sa.UniqueConstraint("tenant", "hash", name=op.f("uq_landing_tenant_hash")),
    )
    op.create_index(op.f("ix_landing_tenant_landing_id"), "landing", ["tenant", "landing_id"], unique=False)
    op.create_table(
        "packs",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("first_leaf", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "first_leaf", name=op.f("pk_packs")),
    )
    op.create_table(
        "sequencing",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("pack_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("pending_pack", sa.LargeBinary(), nullable=True),
        sa.Column("remembered", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_sequencing")),
    )
    op.create_table(
        "signed",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "size", name=op.f("pk_signed")),
    )
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("origin", sa.String(length=255), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenants")),
        sa.UniqueConstraint("origin", name=op.f("uq_tenants_origin")),
    )
    op.create_table(
        "tiles",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("tile", sa.BigInteger(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "level", "tile", name=op.f("pk_tiles")),
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("expires_ns", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ns", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
    )
    op.create_table(
        "verifications",
        sa.Column("verification_id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("depth", sa.String(length=16), nullable=False),
        sa.Column("started_ns", sa.BigInteger(), nullable=False),
        sa.Column("finished_ns", sa.BigInteger(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("verification_id", name=op.f("pk_verifications")),
    )
    op.create_index(
        op.f("ix_verifications_tenant_started_ns"), "verifications", ["tenant", "started_ns"], unique=False
    )
    op.create_table(
        "chains",
        sa.Column("chain", sa.LargeBinary(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("agent", sa.String(length=253), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.LargeBinary(length=32), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("next_public", sa.LargeBinary(length=32), nullable=False),
        sa.Column("sealed_ns", sa.BigInteger(), nullable=False),
        sa.Column("stopped", sa.Boolean(), nullable=False),
        sa.Column("keys", sa.JSON(), nullable=False),
        sa.Column("published_seq", sa.BigInteger(), nullable=False),
        sa.Column("seen_size", sa.BigInteger(), nullable=False),
        sa.Column("heard_ns", sa.BigInteger(), nullable=False),
        sa.Column("announced_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_chains_tenants")),
        sa.PrimaryKeyConstraint("chain", name=op.f("pk_chains")),
        sa.UniqueConstraint("tenant", "agent", name=op.f("uq_chains_tenant_agent")),
    )
    op.create_table(
        "enrolments",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("agent", sa.String(length=253), nullable=False),
        sa.Column("expires_ns", sa.BigInteger(), nullable=False),
        sa.Column("used_by", sa.LargeBinary(length=32), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_enrolments_tenants")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_enrolments")),
    )
    op.create_table(
        "announcements",
        sa.Column("chain", sa.LargeBinary(length=32), nullable=False),
        sa.Column("next_seq", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.LargeBinary(length=32), nullable=False),
        sa.Column("nonce", sa.LargeBinary(length=32), nullable=False),
        sa.Column("signature", sa.LargeBinary(length=64), nullable=False),
        sa.Column("heard_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["chain"], ["chains.chain"], name=op.f("fk_announcements_chains")),
        sa.PrimaryKeyConstraint("chain", name=op.f("pk_announcements")),
    )
    op.create_table(
        "forks",
        sa.Column("chain", sa.LargeBinary(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=True),
        sa.Column("signature", sa.String(length=16), nullable=False),
        sa.Column("seen_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["chain"], ["chains.chain"], name=op.f("fk_forks_chains")),
        sa.PrimaryKeyConstraint("chain", "seq", "hash", name=op.f("pk_forks")),
    )


def downgrade() -> None:
    """Drop every table."""
    op.drop_table("forks")
    op.drop_table("announcements")
    op.drop_table("enrolments")
    op.drop_table("chains")
    op.drop_table("verifications")
    op.drop_table("tokens")
    op.drop_table("tiles")
    op.drop_table("tenants")
    op.drop_table("signed")
    op.drop_table("sequencing")
    op.drop_table("packs")
    op.drop_table("landing")
    op.drop_table("envelopes")
    op.drop_table("entries")
    op.drop_table("checkpoints")
