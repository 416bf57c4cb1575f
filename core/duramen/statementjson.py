"""Statements as JSON, for every command that shows a header (DESIGN 2).

Digests and keys are lower-case hex; integers past 2**53 are decimal strings, as everywhere in Duramen's JSON.
"""

from __future__ import annotations

from duramen.canonical import Json, wide
from duramen.statement import Block, Flags, Genesis, Notice, Statement


def statement_json(statement: Statement) -> dict[str, Json]:
    """All fields of a statement with its hash and signature."""
    if isinstance(statement, Notice):
        return _notice_json(statement)
    return _block_json(statement)


def _notice_json(notice: Notice) -> dict[str, Json]:
    return {
        "statement": "notice",
        "hash": notice.hash.hex(),
        "header": notice.fields,
        "signature": notice.signature.hex(),
    }


def _block_json(block: Block) -> dict[str, Json]:
    header = block.header
    value: dict[str, Json] = {
        "statement": "block",
        "hash": block.hash.hex(),
        "kind": header.kind.name.lower(),
        "flags": [
            str(flag.name).lower() for flag in Flags if flag in header.flags and flag is not Flags.NONE
        ],
        "chain": block.chain.hex(),
        "seq": wide(header.seq),
        "prev": header.prev.hex(),
        "start": wide(header.start),
        "count": header.count,
        "root": header.root.hex(),
        "body": header.body.hex(),
        "size": header.size,
        "group": header.group,
        "class": header.retention_class,
        "dek": header.dek.hex(),
        "step": header.step,
        "sealed": wide(header.sealed_ns),
        "mono": wide(header.monotonic_ns),
        "boot": header.boot.hex(),
        "seen": {"size": wide(header.seen_size), "root": header.seen_root.hex()},
        "next": header.next.hex(),
        "signature": block.signature.hex(),
    }
    if header.genesis is not None:
        value["genesis"] = _genesis_json(header.genesis)
    return value


def _genesis_json(genesis: Genesis) -> dict[str, Json]:
    return {
        "public": genesis.public.hex(),
        "tenant": genesis.tenant,
        "agent": genesis.agent,
        "log": genesis.log.hex(),
        "configuration": genesis.configuration.hex(),
        "replaces": genesis.replaces.hex(),
        "replaced_seq": wide(genesis.replaced_seq),
        "replaced_hash": genesis.replaced_hash.hex(),
    }
