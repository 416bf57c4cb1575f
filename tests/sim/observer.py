"""What must hold at every moment, and what must be true at the end.

Seen from outside, with everything in view.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterator

from duramen.audit import AuditOptions, Depth, audit_region
from duramen.body import EVENT_STREAM, open_body
from duramen.chain import ChainState, advance, begin, check_body
from duramen.checkpoint import Checkpoint, LogKeys, open_checkpoint
from duramen.datakey import DataKeyRatchet, data_key_id
from duramen.envelope import ENVELOPE_BYTES, KEM_ID, EnvelopeContext, Recipient, parse_key_list
from duramen.frame import parse_pack
from duramen.merkle import CompactRange, leaf_hash
from duramen.names import ChainId, DataKeyId, Digest
from duramen.ratchet import parse_seed_file
from duramen.region import CHECKPOINT_KEY, PACKS_PREFIX, envelope_key
from duramen.statement import Block, BlockKind, parse_statement
from duramen.tiles import TILE_WIDTH, TilePath, parse_entries
from duramen.verdict import Severity
from duramen_collector.regionreader import StoreReader
from tests.sim import losses
from tests.sim.host import SimHost
from tests.sim.losses import Violation, hold
from tests.sim.region import SimStore

WINDOW_NS = 30 * 10**9
__all__ = ["Observer", "Violation", "hold"]

REQUESTS_MAX = 300
"""Of one agent within the window; a burst of lines costs some requests a second."""


class Observer:
    """Sees every write to every region, every signature and every receipt."""

    def __init__(self, tenant: str, keys: LogKeys, stores: dict[str, SimStore], copies: int) -> None:
        self._tenant = tenant
        self._keys = keys
        self._stores = stores
        self._copies = copies
        self._statements: dict[bytes, set[str]] = defaultdict(set)
        """Statement hash to the regions that hold it in a pack."""
        self._envelopes: dict[DataKeyId, dict[bytes, bytes]] = {}
        self._bodies: dict[bytes, bytes] = {}
        self._data_keys: dict[DataKeyId, bytes] = {}
        self._signed: dict[int, bytes] = {}
        self._shown: dict[str, int] = dict.fromkeys(stores, 0)
        self._requests: dict[str, deque[int]] = defaultdict(deque)
        self.receipts = 0
        self.lost_bytes = 0
        for name, store in stores.items():
            store.on_write = lambda key, data, name=name: self._written(name, key, data)  # type: ignore[misc]  # mypy: default arguments of lambdas

    # What the parts tell

    def wrap(self, dek: bytes, recipient: Recipient, context: EnvelopeContext) -> bytes:
        """Stands for HPKE (its randomness is its own).

        The same length and form, and the observer keeps the key.
        """
        self._data_keys[data_key_id(dek)] = dek
        sealed = hashlib.shake_256(dek + context.info(recipient.key_hash)).digest(ENVELOPE_BYTES - 2)
        return KEM_ID.to_bytes(2, "big") + sealed

    def signature(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is being signed: nobody may ever have signed another history."""
        known = self._signed.setdefault(checkpoint.size, checkpoint.root)
        hold(known == checkpoint.root, f"two roots of {checkpoint.size} statements were signed")

    def receipt(self, host: SimHost, entries: list[bytes]) -> None:
        """An agent is about to delete these: k regions hold each of them, and its envelopes."""
        for entry in entries:
            regions = self._statements.get(hashlib.sha256(entry).digest(), set())
            block = parse_statement(entry)
            assert isinstance(block, Block)
            if block.header.kind is BlockKind.KEYS:
                keys = [envelope_key(self._tenant, block.header.dek, key) for key in self._readers(block)]
                regions = {name for name in regions if all(key in self._stores[name].objects for key in keys)}
            hold(
                len(regions) >= self._copies,
                f"{host.name} has a receipt for block {block.header.seq}, only in {sorted(regions)}",
            )
            self.receipts += 1

    def request(self, host: SimHost, now_ns: int) -> None:
        """An agent asks a collector something: however bad the day, it never does so without pause."""
        recent = self._requests[host.name]
        recent.append(now_ns)
        while recent[0] < now_ns - WINDOW_NS:
            recent.popleft()
        hold(
            len(recent) <= REQUESTS_MAX,
            f"{host.name} asks without pause: {len(recent)} requests",
        )

    def _readers(self, block: Block) -> list[Digest]:
        return [key for key, _ in parse_key_list(self._bodies[block.hash]).envelopes]

    def _written(self, name: str, key: str, data: bytes) -> None:
        prefix = f"{self._tenant}/"
        if key.startswith(prefix + PACKS_PREFIX):
            for frame in parse_pack(data).frames:
                self._statements[frame.statement.hash].add(name)
                self._bodies[frame.statement.hash] = frame.body
        elif key == prefix + CHECKPOINT_KEY:
            size = int(data.split(b"\n", 2)[1])
            hold(size >= self._shown[name], f"the checkpoint of {name} went back to {size}")
            hold(size in self._signed, f"the region {name} shows a checkpoint of {size} that nobody signed")
            self._shown[name] = size

    # At the end

    def settle(self, hosts: list[SimHost]) -> None:
        """All faults are over and time has passed: everything is there, once, and everything verifies."""
        sizes = {}
        for name, store in self._stores.items():
            reader = StoreReader(name, store)
            report = audit_region(
                reader, self._tenant, self._keys, AuditOptions(depth=Depth.BODIES, region=name)
            )
            failures = [finding for finding in report.findings if finding.severity is not Severity.NOTE]
            hold(not failures, f"a false alarm in {name}: {failures[:3]}")
            data = store.objects[f"{self._tenant}/{CHECKPOINT_KEY}"][0]
            sizes[name] = open_checkpoint(data, self._keys).checkpoint.size
        hold(len(set(sizes.values())) == 1, f"a region stayed behind: {sizes}")
        store = self._stores[min(self._stores)]
        entries = list(self._entries(store, max(sizes.values())))
        self._demand_prefixes(entries)
        chains = self._chains(entries)
        for host in hosts:
            self._demand_lines(host, [state for state, _ in chains.values()], chains)

    def _entries(self, store: SimStore, size: int) -> Iterator[bytes]:
        for index in range((size + TILE_WIDTH - 1) // TILE_WIDTH):
            width = min(TILE_WIDTH, size - index * TILE_WIDTH)
            path = TilePath(None, index, width).path()
            yield from parse_entries(store.objects[f"{self._tenant}/{path}"][0], width)

    def _demand_prefixes(self, entries: list[bytes]) -> None:
        """Everything that was ever signed is a prefix of the log."""
        tree = CompactRange()
        for size in range(len(entries) + 1):
            if size in self._signed:
                hold(tree.root() == self._signed[size], f"the signed log of {size} is no prefix of the log")
            if size < len(entries):
                tree.append(leaf_hash(entries[size]))
        hold(max(self._signed, default=0) <= len(entries), "a signed checkpoint was undone")

    def _chains(self, entries: list[bytes]) -> dict[ChainId, tuple[ChainState, list[Block]]]:
        chains: dict[ChainId, tuple[ChainState, list[Block]]] = {}
        for entry in entries:
            block = parse_statement(entry)
            if not isinstance(block, Block):
                continue
            if block.header.kind is BlockKind.GENESIS:
                chains[block.chain] = (begin(block), [block])
                continue
            state, blocks = chains[block.chain]
            check_body(block, self._bodies[block.hash])
            chains[block.chain] = (advance(state, block), [*blocks, block])
        return chains

    def _demand_lines(
        self, host: SimHost, states: list[ChainState], chains: dict[ChainId, tuple[ChainState, list[Block]]]
    ) -> None:
        """What was sealed is what was written; what is missing was said to be."""
        mine = [state.chain for state in states if state.agent == host.name]
        hold(len(mine) == 1, f"{host.name} has {len(mine)} chains")
        said = losses.Chain(host.name, host.tellers)
        for block in chains[mine[0]][1]:
            if not block.header.count:
                continue
            ratchet = DataKeyRatchet.start(self._data_keys[block.header.dek]).forward_to(block.header.step)
            key = ratchet.block_key(block.header.chain, block.header.seq, block.header.root)
            for run, _, raw in open_body(block.header, self._bodies[block.hash], key).runs:
                if run.stream == EVENT_STREAM:
                    said.events(raw)
                else:
                    said.run(run.file, run.offset, raw)
        self._demand_rest(host, next(state for state in states if state.agent == host.name))
        losses.demand(host.name, said, host.disk.lives, host.last_blocks_ns)
        self.lost_bytes += said.lost_bytes

    def _demand_rest(self, host: SimHost, state: ChainState) -> None:
        """A host that has nothing left to do: all of it published, nothing wrong, no old seed on its disk."""
        hold(host.is_running, f"the agent of {host.name} does not run: {host.failures[-1:]}")
        status = host.status_now()
        hold(status.state == "ok", f"{host.name} is {status.state}: {status.reasons}")
        done = (status.head.seq, status.forward.accepted_seq, status.forward.published_seq)
        hold(done == (state.seq,) * 3, f"{host.name} stands at {done}, the log at {state.seq}")
        seed = parse_seed_file(bytes(host.disk.files[b"/state/seed"].data))
        hold(seed.index == state.seq + 1, f"the seed of {host.name} can sign block {seed.index} again")
