import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duramen.checkpoint import Checkpoint, LogSigner, open_checkpoint
from duramen.errors import FormatError, StorageError
from duramen.logreader import ObjectTileReader, check_log
from duramen.merkle import leaf_hash, root_from, root_of
from duramen.policy import parse_policy
from duramen.tiles import TileHashReader, TilePath, encode_entries, grow, grow_entries, parse_tile_path

SIGNER = LogSigner("logs.example.com/acme", b"a" * 32, b"b" * 32)


class Objects(dict):
    def read(self, key):
        return self.get(key)


def entries_of(size):
    return [b"entry %d" % number for number in range(size)]


def stored_log(size, prefix=""):
    entries = entries_of(size)
    hashes = [leaf_hash(entry) for entry in entries]
    written = {**grow_entries(0, {}, entries), **grow(0, {}, hashes)}
    objects = Objects({prefix + path.path(): data for path, data in written.items()})
    objects[prefix + "checkpoint"] = SIGNER.sign(Checkpoint(SIGNER.origin, size, root_of(hashes)), 1)
    return objects


BIG = 66_000
BIG_LOG = stored_log(BIG)
MIDDLE = 1_100
MIDDLE_LOG = stored_log(MIDDLE)


def opener(data):
    return open_checkpoint(data, SIGNER.keys())


def check(objects, **options):
    seen = []
    report = check_log(objects, opener, on_entry=lambda index, entry: seen.append((index, entry)), **options)
    assert report.entries == len(seen)
    assert [index for index, _ in seen] == sorted({index for index, _ in seen})
    return report, dict(seen)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513, MIDDLE, BIG])
def test_a_sound_log(size):
    report, seen = check(stored_log(size))
    assert report.is_sound
    assert report.signed.checkpoint.size == report.entries == size
    assert list(seen.values()) == entries_of(size)


def test_a_prefix_is_kept_to():
    objects = stored_log(300, "acme/")
    assert check_log(objects, opener, "acme/").is_sound
    assert not check_log(objects, opener).is_sound
    reader = TileHashReader(ObjectTileReader(objects, "acme/"), 300)
    assert root_from(reader, 300) == check_log(objects, opener, "acme/").signed.checkpoint.root
    with pytest.raises(StorageError, match="acme/tile/5/000"):
        ObjectTileReader(objects, "acme/").read(TilePath(5, 0))


@pytest.mark.parametrize("key", sorted(MIDDLE_LOG))
@pytest.mark.parametrize("how", ["flip first", "flip last", "cut", "append", "empty", "gone"])
def test_one_damaged_object_is_the_only_one_named(key, how):
    objects = Objects(MIDDLE_LOG)
    data = objects.pop(key)
    changed = {
        "flip first": flipped(data, 2 if "entries" in key else 0),
        "flip last": flipped(data, len(data) - 1),
        "cut": data[:-1],
        "append": data + b"\0",
        "empty": b"",
    }
    if how != "gone":
        objects[key] = changed[how]
    report, seen = check(objects)
    assert [defect.path for defect in report.defects] == [key]
    assert not report.is_sound
    (defect,) = report.defects
    if key == "checkpoint":
        assert defect.code == ("replica_missing" if how == "gone" else "checkpoint_invalid")
        assert not seen
        return
    expected = {"gone": "replica_missing", "flip first": "tree_mismatch", "flip last": "tree_mismatch"}
    assert defect.code == expected.get(how, "replica_corrupt")
    path = parse_tile_path(key)
    start, end = defect.index_range
    assert 0 <= start < end <= MIDDLE
    if path.level is None:
        lost = set(range(start, end))
        if how.startswith("flip"):
            assert lost == {path.index * 256 + (0 if how == "flip first" else path.width - 1)}
    else:
        lost = set()
    assert seen == {index: b"entry %d" % index for index in range(MIDDLE) if index not in lost}


@pytest.mark.parametrize(
    "key", ["tile/0/100", "tile/0/257.p/208", "tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"]
)
@pytest.mark.parametrize("how", ["flip", "gone", "cut"])
def test_one_damaged_tile_of_a_large_log(key, how):
    objects = Objects(BIG_LOG)
    data = objects.pop(key)
    if how != "gone":
        objects[key] = flipped(data, 0) if how == "flip" else data[:-1]
    report, seen = check(objects)
    assert [defect.path for defect in report.defects] == [key]
    assert len(seen) == BIG


def test_a_tile_and_its_parent_are_both_named():
    objects = Objects(BIG_LOG)
    objects["tile/1/000"] = flipped(objects["tile/1/000"], 32 * 7)
    objects["tile/0/007"] = flipped(objects["tile/0/007"], 32 * 3)
    objects["tile/0/009"] = objects["tile/0/009"][:-1]
    del objects["tile/0/011"]
    report, seen = check(objects)
    assert [(defect.path, defect.index_range, defect.code) for defect in report.defects] == [
        ("tile/1/000", (7 * 256, 8 * 256), "tree_mismatch"),
        ("tile/0/007", (7 * 256 + 3, 7 * 256 + 4), "tree_mismatch"),
        ("tile/0/009", (9 * 256, 10 * 256), "replica_corrupt"),
        ("tile/0/011", (11 * 256, 12 * 256), "replica_missing"),
    ]
    assert len(seen) == BIG


def test_what_cannot_be_proven_is_covered_and_not_visited():
    """The only hash that would say which of two damaged neighbours is right is gone with the tile above."""
    objects = Objects(BIG_LOG)
    del objects["tile/1/000"]
    objects["tile/0/038"] = flipped(objects["tile/0/038"], 0)
    objects["tile/entries/038"] = flipped(objects["tile/entries/038"], 5)
    report, seen = check(objects)
    assert [(defect.path, defect.index_range, defect.code) for defect in report.defects] == [
        ("tile/1/000", (0, 65536), "replica_missing"),
        ("tile/1/000", (0, 65536), "tree_mismatch"),
        ("tile/entries/038", (38 * 256, 38 * 256 + 1), "tree_mismatch"),
    ]
    assert "stays open" in report.defects[2].detail
    assert list(seen) == list(range(65536, BIG))
    objects["tile/1/000"] = flipped(BIG_LOG["tile/1/000"], 38 * 32)
    report, seen = check(objects)
    assert [defect.path for defect in report.defects] == [
        "tile/1/000",
        "tile/1/000",
        "tile/0/038",
        "tile/entries/038",
    ]
    assert list(seen) == list(range(65536, BIG))


BUNDLE_38 = set(range(38 * 256, 39 * 256))


def test_a_missing_tile_is_replaced_by_the_tiles_below_it():
    objects = Objects(BIG_LOG)
    del objects["tile/1/000"]
    objects["tile/entries/038"] = flipped(objects["tile/entries/038"], 5)
    report, seen = check(objects)
    assert [(defect.path, defect.index_range) for defect in report.defects] == [
        ("tile/1/000", (0, 65536)),
        ("tile/entries/038", (38 * 256, 38 * 256 + 1)),
    ]
    assert set(range(BIG)) - set(seen) == {38 * 256}


def test_a_damaged_tile_fills_in_for_what_is_gone_below_it():
    objects = Objects(BIG_LOG)
    objects["tile/1/000"] = flipped(objects["tile/1/000"], 5 * 32)
    del objects["tile/0/038"], objects["tile/entries/038"]
    report, seen = check(objects)
    assert [(defect.path, defect.index_range) for defect in report.defects] == [
        ("tile/1/000", (5 * 256, 6 * 256)),
        ("tile/0/038", (38 * 256, 39 * 256)),
        ("tile/entries/038", (38 * 256, 39 * 256)),
    ]
    assert set(range(BIG)) - set(seen) == BUNDLE_38


def test_two_missing_levels_are_replaced_from_the_entries_and_tiles_below():
    objects = Objects(BIG_LOG)
    gone = ["tile/2/000.p/1", "tile/1/000", "tile/entries/038"]
    for key in gone:
        del objects[key]
    report, seen = check(objects)
    assert [defect.path for defect in report.defects] == gone
    assert set(range(BIG)) - set(seen) == BUNDLE_38


def test_every_hash_tile_may_be_gone():
    objects = Objects({key: data for key, data in BIG_LOG.items() if "entries" in key or key == "checkpoint"})
    report, seen = check(objects)
    tiles = {key for key in BIG_LOG if "entries" not in key} - {"checkpoint"}
    assert {defect.path for defect in report.defects} == tiles
    assert {defect.code for defect in report.defects} == {"replica_missing"}
    assert list(seen.values()) == entries_of(BIG)


def test_every_entry_bundle_may_be_gone():
    objects = Objects({key: data for key, data in MIDDLE_LOG.items() if "entries" not in key})
    report, seen = check(objects)
    assert {defect.path for defect in report.defects} == {key for key in MIDDLE_LOG if "entries" in key}
    assert not seen


def test_only_the_checkpoint_is_there():
    report, seen = check(Objects({"checkpoint": BIG_LOG["checkpoint"]}))
    named = {defect.path for defect in report.defects}
    assert named == set(BIG_LOG)
    assert report.is_complete
    assert not seen


def test_a_log_that_agrees_with_itself_but_not_with_its_checkpoint():
    for size in (200, 300, 256, MIDDLE):
        objects = stored_log(size)
        objects["checkpoint"] = SIGNER.sign(Checkpoint(SIGNER.origin, size, b"r" * 32), 1)
        report, _ = check(objects)
        assert [(defect.path, defect.code) for defect in report.defects] == [("checkpoint", "tree_mismatch")]
        assert report.defects[0].index_range == (0, size)
        assert not report.is_sound


def test_an_entry_and_its_tile_changed_alike_are_found():
    """Somebody who rewrites an entry and every hash above it, but cannot sign."""
    entries = entries_of(MIDDLE)
    entries[600] = b"another"
    hashes = [leaf_hash(entry) for entry in entries]
    written = {**grow_entries(0, {}, entries), **grow(0, {}, hashes)}
    objects = Objects({path.path(): data for path, data in written.items()})
    objects["checkpoint"] = MIDDLE_LOG["checkpoint"]
    report, _ = check(objects)
    assert [defect.path for defect in report.defects] == ["checkpoint"]
    for kept in ("tile/1/000.p/4", "tile/0/002"):
        objects = Objects({**objects, kept: MIDDLE_LOG[kept]})
        report, seen = check(objects)
        assert not report.is_sound
        if kept == "tile/1/000.p/4":
            assert [(defect.path, defect.index_range) for defect in report.defects] == [
                ("tile/0/002", (512, 768)),
                ("tile/entries/002", (512, 768)),
            ]
            assert set(range(MIDDLE)) - set(seen) == set(range(512, 768))
        else:
            assert [(defect.path, defect.index_range) for defect in report.defects] == [
                ("tile/entries/002", (600, 601))
            ]
            assert 600 not in seen


def test_extra_entries_and_reordered_ones_are_found():
    objects = Objects(MIDDLE_LOG)
    key = "tile/entries/004.p/76"
    objects[key] += encode_entries([b"one more"])
    report, _ = check(objects)
    assert [(defect.path, defect.code) for defect in report.defects] == [(key, "replica_corrupt")]
    entries = entries_of(MIDDLE)[1024:]
    entries[3], entries[9] = entries[9], entries[3]
    objects[key] = encode_entries(entries)
    report, seen = check(objects)
    assert [(defect.path, defect.index_range) for defect in report.defects] == [(key, (1027, 1034))]
    assert set(range(MIDDLE)) - set(seen) == {1027, 1033}


def test_a_full_object_stands_in_for_a_partial_one():
    objects = stored_log(512)
    for path, data in grow(0, {}, [leaf_hash(entry) for entry in entries_of(300)]).items():
        if path.level == 1:
            objects[path.path()] = data
    objects["checkpoint"] = SIGNER.sign(
        Checkpoint(SIGNER.origin, 300, root_of([leaf_hash(entry) for entry in entries_of(300)])), 1
    )
    report, seen = check(objects)
    assert report.is_sound
    assert len(seen) == 300
    objects["tile/entries/001"] += b"\0"
    report, _ = check(objects)
    (defect,) = report.defects
    assert defect.path == "tile/entries/001.p/44"
    assert "stands in" in defect.detail


def test_the_number_of_defects_is_bounded():
    objects = Objects({"checkpoint": SIGNER.sign(Checkpoint(SIGNER.origin, 2**62 + 12345, bytes(32)), 1)})
    report, _ = check(objects, defects_max=50)
    assert len(report.defects) == 50
    assert not report.is_complete
    assert not report.is_sound
    report, _ = check(objects, defects_max=1)
    assert len(report.defects) == 1


def test_a_bad_checkpoint_ends_it():
    policy = parse_policy(b"witness w %s\nquorum w\n" % SIGNER.keys().mldsa44.encode().encode())
    report = check_log(MIDDLE_LOG, lambda data: open_checkpoint(data, SIGNER.keys(), policy))
    assert [defect.code for defect in report.defects] == ["below_policy"]
    report = check_log(Objects({"checkpoint": b"?"}), opener)
    assert [defect.code for defect in report.defects] == ["checkpoint_invalid"]
    assert report.signed is None
    assert not report.is_sound


def test_errors_of_reader_and_visitor_come_through():
    class Broken:
        def read(self, key):
            raise StorageError("the disk is gone")

    with pytest.raises(StorageError):
        check_log(Broken(), opener)

    def visit(index, entry):
        raise FormatError("no statement")

    with pytest.raises(FormatError):
        check_log(MIDDLE_LOG, opener, on_entry=visit)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_is_damaged_nothing_wrong_is_visited_and_nothing_sound_is_blamed(data):
    objects = Objects(MIDDLE_LOG)
    keys = sorted(set(objects) - {"checkpoint"})
    chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4, unique=True))
    for key in chosen:
        how = data.draw(st.sampled_from(["gone", "flip", "cut", "other"]))
        old = objects.pop(key)
        if how == "flip":
            objects[key] = flipped(old, data.draw(st.integers(0, len(old) - 1)))
        elif how == "cut":
            objects[key] = old[: data.draw(st.integers(0, len(old) - 1))]
        elif how == "other":
            objects[key] = MIDDLE_LOG[data.draw(st.sampled_from(keys))]
    damaged = {key for key in keys if objects.get(key) != MIDDLE_LOG[key]}
    report, seen = check(objects)
    named = {defect.path for defect in report.defects}
    assert bool(named) == bool(damaged)
    if "checkpoint" not in named and not any("open which" in item.detail for item in report.defects):
        assert named == damaged
    assert all(entry == b"entry %d" % index for index, entry in seen.items())
    blamed = [range(*defect.index_range) for defect in report.defects]
    assert all(index in seen or any(index in found for found in blamed) for index in range(MIDDLE))
