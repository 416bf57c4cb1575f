import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duramen.errors import FormatError, StorageError, UsageError
from duramen.merkle import (
    LeafReader,
    consistency_proof,
    consistency_proof_from,
    inclusion_proof,
    inclusion_proof_from,
    leaf_hash,
    root_from,
    root_of,
)
from duramen.tiles import (
    CACHE_TILES,
    TileHashReader,
    TilePath,
    edge_paths,
    encode_entries,
    grow,
    grow_entries,
    parse_entries,
    parse_tile,
    parse_tile_path,
    tile_paths_for,
)

PUBLISHED = json.loads((Path(__file__).parents[1] / "vectors" / "published" / "tile_paths.json").read_text())
paths = st.builds(
    TilePath,
    st.none() | st.integers(0, 63),
    st.integers(0, 2**63 - 1) | st.integers(0, 2_000_000),
    st.integers(1, 256),
)


class Store(dict):
    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def read(self, path):
        self.asked.append(path)
        if path not in self:
            raise StorageError(f"there is no {path.path()}")
        return self[path]


def leaves(count):
    return [leaf_hash(b"%d" % number) for number in range(count)]


def test_published_paths():
    for text, height, level, index, width in PUBLISHED["valid"]:
        ours = text.replace(f"tile/{height}/", "tile/").replace("/data/", "/entries/")
        full = width == 2**height
        path = TilePath(None if level == -1 else level, index, 256 if full else width)
        assert path.path() == ours
        assert parse_tile_path(ours) == path
    for text in PUBLISHED["invalid"]:
        with pytest.raises(FormatError):
            parse_tile_path(text.replace("tile/3/", "tile/"))
    for index, text in PUBLISHED["c2sp_index"].items():
        assert TilePath(0, int(index)).path() == f"tile/0/{text}"


def test_published_sizes():
    def shape(size):
        found = {}
        for path in tile_paths_for(0, size):
            if path.level is not None:
                key = f"level{path.level}_{'partial' if path.is_partial else 'full'}"
                found[key] = path.width if path.is_partial else found.get(key, 0) + 1
        return found

    assert shape(70000) == PUBLISHED["size_70000"]
    assert shape(256) == PUBLISHED["size_256"]


@given(paths)
def test_paths_read_back(path):
    assert parse_tile_path(path.path()) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tile/0",
        "tile/0/",
        "tile/0/1",
        "tile/0/0001",
        "tile/00/001",
        "tile/64/001",
        "tile/-1/001",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001/x002",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001.p/257",
        "tile/0/001.p/",
        "tile/0/001.p",
        "tile/0/001\n",
        " tile/0/001",
        "/tile/0/001",
        "tile/entries/001/",
        "tile/data/001",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/x001/x001/x001/x001/x001/x001/x001/001",
        "tile/0/\u0660\u0660\u0661",
        "tile/\u0661/001",
    ],
)
def test_other_spellings_are_refused(text):
    with pytest.raises(FormatError):
        parse_tile_path(text)


@given(st.text("tileniesxp0123456789./", max_size=40))
def test_any_text_is_refused_or_canonical(text):
    try:
        path = parse_tile_path(text)
    except FormatError:
        return
    assert path.path() == text


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=256))
def test_entries_read_back(entries):
    data = encode_entries(entries)
    assert parse_entries(data, len(entries)) == entries
    for count in {len(entries) - 1, len(entries) + 1}:
        with pytest.raises(FormatError):
            parse_entries(data, count)
    for bad in (data + b"\0", data[:-1]):
        with pytest.raises(FormatError):
            parse_entries(bad, len(entries))


@given(st.binary(max_size=60), st.integers(1, 8))
def test_any_bytes_are_refused_or_canonical(data, count):
    try:
        entries = parse_entries(data, count)
    except FormatError:
        return
    assert encode_entries(entries) == data


def test_entries_are_bounded():
    assert parse_entries(encode_entries([bytes(65535)]), 1) == [bytes(65535)]
    for entries in ([bytes(65536)], [], [b""] * 257):
        with pytest.raises(FormatError):
            encode_entries(entries)
    for count in (0, 257, -1):
        with pytest.raises(FormatError):
            parse_entries(b"", count)
    for width, size in ((1, 31), (1, 33), (2, 32), (256, 8191)):
        with pytest.raises(FormatError):
            parse_tile(bytes(size), width)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=5), st.data())
def test_a_grown_log_holds_the_tree(steps, data):
    store = Store()
    hashes = []
    for step in steps:
        old = len(hashes)
        entries = [b"%d" % number for number in range(old, old + step)]
        added = [leaf_hash(entry) for entry in entries]
        edge = {path: store[path] for path in edge_paths(old)}
        written = {**grow_entries(old, edge, entries), **grow(old, edge, added)}
        assert list(written) == tile_paths_for(old, old + step)
        store.update(written)
        hashes += added
    size = len(hashes)
    for path in tile_paths_for(0, size):
        if path.level is None:
            entries = parse_entries(store[path], path.width)
            first = path.index * 256
            assert [leaf_hash(entry) for entry in entries] == hashes[first : first + path.width]
    reader = TileHashReader(store, size)
    assert root_from(reader, size) == root_of(hashes)
    if size:
        index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
        store.asked.clear()
        assert inclusion_proof_from(reader, index, size) == inclusion_proof(index, hashes)
        assert consistency_proof_from(reader, old, size) == consistency_proof(old, hashes)
        assert set(store.asked) <= set(tile_paths_for(0, size))


def test_a_log_with_a_third_level_reads_as_its_leaves_do():
    hashes = leaves(66_000)
    store = Store(grow(0, {}, hashes))
    reader, brute = TileHashReader(store, 66_000), LeafReader(hashes)
    for level in range(17):
        for index in {0, (66_000 >> level) - 1, (66_000 >> level) // 2}:
            if index >= 0 and (index + 1) << level <= 66_000:
                assert reader.hash_at(level, index) == brute.hash_at(level, index)
    for old in (1, 255, 256, 65_535, 65_536, 65_999, 66_000):
        assert consistency_proof_from(reader, old, 66_000) == consistency_proof(old, hashes)
    for start in range(0, 66_000, 256):
        reader.hash_at(0, start)
    assert len(reader._cache) == CACHE_TILES


def test_a_full_tile_stands_in_for_a_partial_one():
    hashes = leaves(512)
    store = Store(grow(0, {}, hashes[:300]))
    store.update(grow(300, dict(store), hashes[300:]))
    del store[TilePath(0, 1, 44)]
    assert root_from(TileHashReader(store, 300), 300) == root_of(hashes[:300])
    assert store.asked.index(TilePath(0, 1, 44)) < store.asked.index(TilePath(0, 1))


def test_a_missing_tile_is_an_error():
    hashes = leaves(512)
    for gone, size in ((TilePath(0, 1), 512), (TilePath(0, 1), 300)):
        store = Store(grow(0, {}, hashes))
        del store[gone]
        with pytest.raises(StorageError):
            TileHashReader(store, size).hash_at(0, 256)
    store = Store({TilePath(0, 0, 3): bytes(95)})
    with pytest.raises(FormatError):
        TileHashReader(store, 3).hash_at(0, 0)


def test_nonsense_is_refused():
    for old, new in ((1, 0), (-1, 0), (0, 2**63)):
        with pytest.raises(UsageError):
            tile_paths_for(old, new)
    for size in (-1, 2**63):
        with pytest.raises(UsageError):
            edge_paths(size)
        with pytest.raises(UsageError):
            TileHashReader(Store(), size)
        with pytest.raises(UsageError):
            grow(size, {}, [])
        with pytest.raises(UsageError):
            grow_entries(size, {}, [])
    with pytest.raises(UsageError):
        grow(0, {}, [bytes(31)])
    for level, index in ((-1, 0), (0, -1), (0, 3), (1, 1), (2, 0)):
        with pytest.raises(UsageError):
            TileHashReader(Store(), 3).hash_at(level, index)
    with pytest.raises(UsageError, match=r"tile/0/000\.p/1"):
        grow(1, {}, leaves(1))
    with pytest.raises(UsageError, match=r"tile/entries/000\.p/1"):
        grow_entries(1, {}, [b"x"])
    with pytest.raises(FormatError):
        grow(1, {TilePath(0, 0, 1): bytes(31)}, leaves(1))
    for level, index, width in ((64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 2**63, 1), (0, 0, 0), (0, 0, 257)):
        with pytest.raises(FormatError):
            TilePath(level, index, width)
