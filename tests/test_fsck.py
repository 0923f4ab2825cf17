"""What is wrong with a store is found at its level, with what it affects; and nothing else is."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate import threads
from replicate.errors import InvalidInputError, UnsupportedFormatError
from replicate.maintenance.fsck import LEVELS, fsck
from replicate.maintenance.report import CAUSES, Damage, Report
from replicate.objects.ids import Kind, ObjectID, blob_id, object_id, pack_id
from replicate.objects.locator import Locator
from replicate.objects.model import Commit, Mode, TreeEntry, commit_id, encode_commit, encode_tree
from replicate.objects.pack import Entry, pack_key
from replicate.refs.catalogs import encode_full, encode_heads
from replicate.refs.records import encode_record
from replicate.reporting import SilentReporter
from replicate.repository import MARKER
from replicate.transport import KeyInfo, MemoryTransport, Transport
from tests.builders import (
    SESSION,
    Folder,
    Frame,
    SavedFiles,
    SmallStore,
    build_pack,
    concat_frame,
    entry,
    noise,
    patch_frame,
    tree_frame,
)
from tests.hostile.readers import Altered, keys_of
from tests.hostile.test_every_bit import every_encoding, saved_store
from tests.projects import SampleProject, check_store


def check(transport: Transport, level: int = 4, commits: Iterable[ObjectID] | None = None) -> Report:
    chosen = None if commits is None else frozenset(commits)
    return fsck(transport, "nowhere", SilentReporter(), level=level, commits=chosen)


def kinds(report: Report) -> list[str]:
    return [one.kind for one in report.damage]


def note_kinds(report: Report) -> list[str]:
    return [note.kind for note in report.notes]


def found_from(level: int, transport: Transport) -> Damage:
    """Return the only damage that a level finds; no lower one finds any, and higher ones know of no more harm."""
    reports = {one: check(transport, one).damage for one in LEVELS}
    for one, found in reports.items():
        assert len(found) == (one >= level), (one, found)
    (damage,) = reports[level]
    assert damage.level == level
    assert "{" not in damage.advice
    for one in LEVELS:
        if one >= max(level, 2):
            assert affected(reports[one][0]) == affected(reports[max(level, 2)][0])
    return reports[max(level, 2)][0]


@dataclass
class Experiment:
    """An experiment with a root and two checkpoints; `model` is another in each, `lib/a.py` is always the same."""

    transport: MemoryTransport
    saves: list[SavedFiles]

    @property
    def experiment(self) -> ObjectID:
        return self.saves[0].record.name.experiment

    def key(self, number: int) -> str:
        return self.saves[number].record.name.key

    def data_pack(self, number: int) -> str:
        """The key of the pack that holds a model."""
        meta = set().union(*(save.record.meta for save in self.saves))
        before = set().union(*(save.record.packset.packs for save in self.saves[:number])) if number else set()
        (pack,) = self.saves[number].record.packset.packs - before - meta
        return pack_key(pack)

    def meta_pack(self, number: int) -> str:
        (pack,) = self.saves[number].record.meta
        return pack_key(pack)

    def alter(self, key: str, change: Callable[[bytes], bytes]) -> Altered:
        keys = keys_of(self.transport)
        return Altered(keys, key, change(keys[key]))


def model(number: int) -> bytes:
    return noise(1_100_000, f"model {number}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    small = SmallStore(tmp_path_factory.mktemp("index"))
    small.transport.put("ctl/v1", MARKER)
    saves: list[SavedFiles] = []
    for number in range(3):
        files: Folder = {"lib": {"a.py": b"print(1)\n"}, "model": model(number)}
        saves.append(small.save(files, saves[-1] if saves else None))
    small.index.close()
    assert isinstance(small.transport, MemoryTransport)
    return Experiment(small.transport, saves)


@dataclass
class Chain:
    """A store of ten checkpoints with a folder that changes in each, so that it is stored as patches."""

    keys: dict[str, bytes]

    @property
    def packs(self) -> list[str]:
        return [key for key in self.keys if key.startswith("packs/")]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    small = SmallStore(tmp_path_factory.mktemp("chain"))
    small.transport.put("ctl/v1", MARKER)
    save: SavedFiles | None = None
    for step in range(10):
        lib: Folder = {f"{number}.py": b"%d" % number for number in range(60)}
        save = small.save({"lib": {**lib, "new.py": b"step %d" % step}, "model": noise(5_000, f"model {step}")}, save)
    small.index.close()
    keys = keys_of(small.transport)
    assert check(small.transport).damage == ()
    return Chain(keys)


@pytest.fixture
def copy(made: Experiment) -> MemoryTransport:
    """The same store, to be changed."""
    return Altered(keys_of(made.transport), "ctl/v1", MARKER)


def flip(at: int, bit: int = 0) -> Callable[[bytes], bytes]:
    """Return what flips a bit of the byte at an offset; a negative one counts from the end."""

    def flipped(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        return bytes(changed)

    return flipped


def affected(damage: Damage) -> list[tuple[list[int], bool, tuple[bytes, ...]]]:
    """Return seqs, whether all of them is lost, and paths, by experiment."""
    return [([one.seq for one in each.commits], each.is_whole, each.paths) for each in damage.affects]


# -- sound stores


@pytest.mark.parametrize("level", LEVELS)
def test_a_sound_store_has_no_damage(made: Experiment, level: int) -> None:
    report = check(made.transport, level)
    assert report == Report(level, 1, 2, 6, report.pack_bytes, (), ())
    assert report.pack_bytes == sum(len(data) for key, data in keys_of(made.transport).items() if "packs/" in key)


@pytest.mark.parametrize("make", [saved_store, every_encoding])
def test_a_store_in_every_encoding_has_no_damage(tmp_path: Path, make: Callable[[Path], dict[str, bytes]]) -> None:
    report = check(Altered(make(tmp_path), "ctl/v1", MARKER))
    assert (report.damage, report.notes) == ((), ())


def test_an_empty_store_has_no_damage() -> None:
    assert check(MemoryTransport()) == Report(4, 0, 0, 0, 0, (), ())


def test_a_level_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="3 is no level of a check"):
        check(MemoryTransport(), 3)


class ReadOnly(Altered):
    """A store that must not be written, and that counts what is read."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        super().__init__(keys, "ctl/v1", MARKER)
        self.reads: list[str] = []

    def put(self, key: str, data: bytes | bytearray | memoryview, *, replace: bool = False) -> None:
        raise AssertionError(f"put {key}")

    def delete(self, keys: Iterable[str]) -> Sequence[str]:
        raise AssertionError(f"delete {list(keys)}")

    def probe(self) -> int:
        raise AssertionError("probe")

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.reads.append(key)
        return super().get(key, start, end)


def test_a_check_only_reads_and_lower_levels_read_less(made: Experiment) -> None:
    reads = {}
    for level in LEVELS:
        transport = ReadOnly(keys_of(made.transport))
        assert check(transport, level).damage == ()
        reads[level] = Counter(key.split("/")[0] for key in transport.reads)
    assert reads[0] == reads[1] == {"ctl": 2, "refs": 3}
    assert reads[2]["packs"] > 0
    assert reads[4]["packs"] >= reads[2]["packs"]


def test_what_commits_share_is_looked_at_once(tmp_path: Path) -> None:
    """A folder of 300 files and 30 checkpoints that change one of them each."""
    small = SmallStore(tmp_path)
    files: Folder = {f"{number}": {f"{name}": b"%d %d" % (number, name) for name in range(20)} for number in range(15)}
    saves: list[SavedFiles] = []
    reads = []
    for step in range(31):
        files = {**files, "0": {**files["0"], "0": b"changed %d" % step}}  # type: ignore[dict-item]
        saves.append(small.save(files, saves[-1] if saves else None))
        if step in (0, 30):
            transport = ReadOnly(keys_of(small.transport))
            assert check(transport, 2).damage == ()
            reads.append(sum(key.startswith("packs/") for key in transport.reads))
    small.index.close()
    first, all_of_them = reads
    assert first == 1 + 1 + 1 + 16  # footer, locator, commit, trees
    assert (
        all_of_them - first <= 30 * 8
    )  # and of each: footer, locators, commit, two trees and what they are patches on


# -- any bit


@pytest.fixture(scope="module", params=[saved_store, every_encoding])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    keys: dict[str, bytes] = request.param(tmp_path_factory.mktemp("tiny"))
    return {**keys, "ctl/v1": MARKER}


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_found(tiny: dict[str, bytes], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(tiny)))
    bit = data.draw(st.integers(0, len(tiny[key]) * 8 - 1))
    report = check(Altered(tiny, key, flip(bit // 8, bit % 8)(tiny[key])))
    is_told = bool(report.damage) or (key.startswith("refs/") and "torn-records" in note_kinds(report))
    assert is_told, (key, bit)


def test_every_file_cut_short_or_missing_is_found(tiny: dict[str, bytes]) -> None:
    for key, content in tiny.items():
        for size in random.Random(1).sample(range(len(content)), 10):
            report = check(Altered(tiny, key, content[:size]))
            torn = key.startswith("refs/") and "torn-records" in note_kinds(report)
            assert bool(report.damage) != torn, (key, size)
        transport = Altered(tiny, "ctl/v1", MARKER)
        transport.delete([key])
        assert bool(check(transport).damage) == key.startswith(("packs/", "ctl/")) or "~0000000" in key


# -- level 0


def test_a_marker_that_is_missing_cut_short_or_another_is_found(made: Experiment, copy: MemoryTransport) -> None:
    for content, why in (
        (None, "the marker of the store is not there, or cut short"),
        (MARKER[:7], "the marker of the store is not there, or cut short"),
        (b"something else", "nowhere/ctl/v1 is damaged: not the marker of a store"),
    ):
        copy.delete(["ctl/v1"])
        if content is not None:
            copy.put("ctl/v1", content)
        damage = found_from(0, copy)
        assert (damage.kind, damage.where, damage.why, damage.affects) == ("marker", "ctl/v1", why, ())


def test_a_marker_that_is_cut_short_in_an_empty_store_is_no_damage() -> None:
    transport = MemoryTransport()
    transport.put("ctl/v1", MARKER[:7])
    report = check(transport)
    assert (report.damage, note_kinds(report)) == ((), ["marker"])


def test_a_store_that_needs_a_newer_version_to_read_is_refused(copy: MemoryTransport) -> None:
    copy.put("ctl/feat~read~deltas", b"")
    with pytest.raises(UnsupportedFormatError, match="nowhere uses deltas, which this version cannot read"):
        check(copy)
    newer = MemoryTransport()
    newer.put("ctl/v2", b"replicate store, format 2\n")
    with pytest.raises(UnsupportedFormatError, match="nowhere has format 2; this version reads format 1"):
        check(newer)


def test_features_and_records_of_a_newer_version_are_noted(made: Experiment, copy: MemoryTransport) -> None:
    copy.put("ctl/feat~gc~keep", b"")
    name, data = encode_record(made.experiment, 0, SESSION, "q", {"what": 1})
    copy.put(name.key, data)
    report = check(copy)
    assert (report.damage, note_kinds(report)) == ((), ["newer", "unknown-records"])


@pytest.mark.parametrize(
    "key",
    [
        "refs/stray",
        "refs/ab/.ds_store",
        "packs/stray",
        "packs/ab/cd",
        f"packs/00/{'ab' * 32}",
        "cat/stray",
        "cat/f~zz~00",
    ],
)
def test_a_key_outside_of_the_grammar_is_found(copy: MemoryTransport, key: str) -> None:
    copy.put(key, b"x")
    damage = found_from(0, copy)
    assert (damage.kind, damage.where, damage.affects) == ("stray-key", key, ())
    assert key in damage.why


def test_unknown_top_level_names_are_ignored(copy: MemoryTransport) -> None:
    copy.put("other/key", b"x")
    copy.put("hints/ab/none", b"x")
    assert (check(copy).damage, check(copy).notes) == ((), ())


@pytest.mark.parametrize("at", [0, 20, 200, -1, -40])
def test_a_flipped_bit_in_a_record_is_found(made: Experiment, at: int) -> None:
    damage = found_from(0, made.alter(made.key(2), flip(at)))
    assert (damage.kind, damage.where) == ("record", made.key(2))
    assert affected(damage) == [([2], True, ())]
    assert damage.affects[0].commits[0].commit_id == made.saves[2].record.commit_id


def test_a_damaged_root_affects_the_whole_experiment(made: Experiment) -> None:
    damage = found_from(0, made.alter(made.key(0), flip(100)))
    assert (damage.kind, affected(damage)) == ("record", [([0, 1, 2], True, ())])


def test_a_missing_root_affects_the_whole_experiment(made: Experiment, copy: MemoryTransport) -> None:
    copy.delete([made.key(0)])
    damage = found_from(0, copy)
    assert (damage.kind, damage.where) == ("root-missing", made.key(0)[:82])
    assert affected(damage) == [([1, 2], True, ())]


def test_a_missing_checkpoint_that_others_follow_is_noted(made: Experiment, copy: MemoryTransport) -> None:
    copy.delete([made.key(1)])
    report = check(copy)
    assert report.damage == ()
    assert note_kinds(report) == ["parents-elsewhere", "unreferenced-packs"][: len(report.notes)]


def test_a_damaged_checkpoint_that_others_follow_is_not_noted_as_left_elsewhere(made: Experiment) -> None:
    for number in (0, 1):
        report = check(made.alter(made.key(number), flip(100)))
        assert kinds(report) == ["record"]
        assert set(note_kinds(report)) <= {"unreferenced-packs"}
        assert all("did not finish" not in note.text for note in report.notes)


def test_a_damaged_catalog_may_hold_what_others_follow(made: Experiment, copy: MemoryTransport) -> None:
    name, data = encode_full(made.experiment.hex()[:2], {made.key(1): copy.get(made.key(1))})
    copy.put(name.key, flip(30)(data))
    copy.delete([made.key(1)])
    report = check(copy)
    assert (kinds(report), "parents-elsewhere" in note_kinds(report)) == (["catalog"], False)


def test_a_missing_root_is_not_noted_as_left_elsewhere(made: Experiment, copy: MemoryTransport) -> None:
    copy.delete([made.key(0)])
    assert "parents-elsewhere" not in note_kinds(check(copy))


def test_a_record_under_the_name_of_another_experiment_is_found(made: Experiment, copy: MemoryTransport) -> None:
    other = "ab" * 32
    key = made.key(2).replace(made.experiment.hex(), other).replace(f"refs/{other[:2]}", "refs/ab")
    key = f"refs/ab/{key.rpartition('/')[2]}"
    copy.put(key, copy.get(made.key(2)))
    damage = found_from(0, copy)
    assert (damage.kind, damage.where, affected(damage)) == ("record", key, [])
    assert "of another experiment or seq" in damage.why


@pytest.mark.parametrize(
    "cut", [lambda data: data[:-1], lambda data: data[:9], lambda data: b"", lambda data: bytes(len(data))]
)
def test_a_record_that_is_cut_short_is_damage_only_if_others_follow_it(
    made: Experiment, cut: Callable[[bytes], bytes]
) -> None:
    newest = check(made.alter(made.key(2), cut))
    assert newest.damage == ()
    assert note_kinds(newest)[0] == "torn-records"
    assert made.key(2) in newest.notes[0].text
    damage = found_from(0, made.alter(made.key(1), cut))
    assert (damage.kind, affected(damage)) == ("record", [([1], True, ())])


@pytest.mark.parametrize(
    ("kind", "part"), [("e", "how a session ended"), ("x", "a tombstone: what it hides shows again"), ("z", "a record")]
)
def test_a_damaged_record_of_another_kind_affects_a_part(
    made: Experiment, copy: MemoryTransport, kind: str, part: str
) -> None:
    name, data = encode_record(made.experiment, 0, SESSION, kind, {"status": "finished", "commits": []})
    copy.put(name.key, flip(12)(data))
    damage = found_from(0, copy)
    assert [(each.experiment, each.commits, each.part) for each in damage.affects] == [(made.experiment, (), part)]


def test_folded_records_are_checked_and_a_damaged_catalog_is_found(made: Experiment, copy: MemoryTransport) -> None:
    shard = made.experiment.hex()[:2]
    bodies = {made.key(number): copy.get(made.key(number)) for number in range(3)}
    name, data = encode_full(shard, bodies)
    copy.put(name.key, data)
    copy.delete(bodies)
    report = check(copy)
    assert (report.damage, report.experiments, report.checkpoints) == ((), 1, 2)
    copy.delete([made.data_pack(1)])
    assert affected(found_from(1, copy)) == [([1], False, (b"model",))]
    broken = Altered(keys_of(copy), name.key, flip(30)(data))
    assert ("catalog", name.key) in [(one.kind, one.where) for one in check(broken, 0).damage]


def test_a_damaged_record_that_a_catalog_holds_whole_loses_nothing(made: Experiment, copy: MemoryTransport) -> None:
    name, data = encode_full(made.experiment.hex()[:2], {made.key(2): copy.get(made.key(2))})
    copy.put(name.key, data)
    broken = Altered(keys_of(copy), made.key(2), flip(50)(copy.get(made.key(2))))
    damage = found_from(0, broken)
    assert (damage.kind, damage.affects, check(broken).checkpoints) == ("record", (), 2)


def test_a_catalog_that_holds_other_bytes_under_a_key_is_found_and_loses_nothing(
    made: Experiment, copy: MemoryTransport
) -> None:
    bodies = {made.key(number): copy.get(made.key(number)) for number in range(3)}
    name, data = encode_full(made.experiment.hex()[:2], {**bodies, made.key(2): b"junk"})
    copy.put(name.key, data)
    damage = found_from(0, copy)
    assert (damage.kind, damage.where, damage.affects, check(copy).checkpoints) == ("catalog", name.key, (), 2)


def test_a_damaged_catalog_of_heads_is_found(copy: MemoryTransport) -> None:
    name, data = encode_heads("00", "ff", [], [], [])
    copy.put(name.key, data)
    assert check(copy).damage == ()
    assert found_from(0, Altered(keys_of(copy), name.key, flip(-1)(data))).kind == "catalog"


# -- level 1


def test_a_missing_data_pack_is_found_with_the_paths_that_need_it(made: Experiment, copy: MemoryTransport) -> None:
    key = made.data_pack(1)
    copy.delete([key])
    assert affected(check(copy, 1).damage[0]) == [([1, 2], False, ())]  # who names it; level 2 knows more
    damage = found_from(1, copy)
    assert (damage.kind, damage.where, affected(damage)) == ("pack-missing", key, [([1], False, (b"model",))])
    assert damage.advice == f"copy {key} from another copy of the store"


def test_a_missing_meta_pack_takes_all_of_the_commit(made: Experiment, copy: MemoryTransport) -> None:
    copy.delete([made.meta_pack(2)])
    damage = found_from(1, copy)
    assert (damage.kind, affected(damage)) == ("pack-missing", [([2], True, ())])


@pytest.mark.parametrize("size", [0, 95, 1 << 29])
def test_a_pack_of_no_size_that_a_pack_has_is_found(made: Experiment, size: int) -> None:
    class Odd(Altered):
        def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
            for info in super().list(prefix, details=details):
                yield info._replace(size=size) if info.key == made.data_pack(2) else info

    keys = keys_of(made.transport)
    damage = check(Odd(keys, made.data_pack(2), keys[made.data_pack(2)][:size]), 1).damage
    assert [(one.kind, one.where, affected(one)) for one in damage] == [
        ("pack-size", made.data_pack(2), [([2], False, ())])
    ]


def test_a_packset_frame_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    keys = {**every_encoding(tmp_path), "ctl/v1": MARKER}
    whole = check(Altered(keys, "ctl/v1", MARKER))
    (key,) = [
        key for key, data in keys.items() if key.startswith("packs/") and data[8] == 1 and b"\x07\x01\x00" in data
    ]
    at = keys[key].index(b"OBJ1\x05")
    report = check(Altered(keys, key, flip(at + 70)(keys[key])), 1)
    assert whole.damage == ()
    assert [(one.kind, one.where, one.level) for one in report.damage] == [("object", key, 1)]
    assert {note.text.partition(":")[0] for note in report.notes} <= {
        "packs that are needed only by what is damaged above, or by no checkpoint"
    }
    for level in (2, 4):
        assert [one.where for one in check(Altered(keys, key, flip(at + 70)(keys[key])), level).damage] == [key]
    for damaged in (Altered(keys, key, keys[key][: at + 70]), Altered(keys, key, keys[key][:50])):
        for level in (1, 2, 4):
            assert [(one.kind, one.where) for one in check(damaged, level).damage] == [("pack-size", key)]
    damaged.delete([key])
    assert [(one.kind, one.where) for one in check(damaged).damage] == [("pack-missing", key)]


# -- level 2


@pytest.mark.parametrize("size", [50, 200, -100])
@pytest.mark.parametrize("level", [2, 4])
def test_what_follows_from_a_pack_that_is_cut_short_is_no_damage_of_its_own(
    chain: Chain, size: int, level: int
) -> None:
    """Later checkpoints need its locator, its trees and its bases."""
    for key in chain.packs:
        (damage,) = check(Altered(chain.keys, key, chain.keys[key][:size]), level).damage
        assert (damage.where, damage.advice) == (key, f"copy {key} from another copy of the store")
        assert damage.affects != ()


def test_three_packs_that_are_cut_short_are_three_places(chain: Chain) -> None:
    three = sorted(chain.packs)[:3]
    damaged = Altered(chain.keys, "ctl/v1", MARKER)
    for key in three:
        damaged = Altered(keys_of(damaged), key, chain.keys[key][:50])
    for level in (1, 2, 4):
        assert [one.where for one in check(damaged, level).damage] == three


def test_a_flipped_bit_takes_at_most_the_pack_that_it_is_in(chain: Chain) -> None:
    """Whatever lies there: locators and bases are needed by other packs too, which are as they should be."""
    for key in chain.packs:
        content = chain.keys[key]
        for at in range(40, len(content), max(1, len(content) // 25)):
            for level in (2, 4):
                damage = check(Altered(chain.keys, key, flip(at)(content)), level).damage
                assert all(key.rpartition("/")[2] in one.why for one in damage), (key, at, level)
                assert len(damage) <= 1


@pytest.mark.parametrize("at", [-1, -20, -40, -60, -70])
def test_a_flipped_bit_in_a_footer_or_trailer_is_found(made: Experiment, at: int) -> None:
    damage = found_from(2, made.alter(made.data_pack(2), flip(at)))
    assert (damage.kind, damage.where) == ("pack-footer", made.data_pack(2))
    assert affected(damage) == [([2], False, ())]  # no file of it is lost


def test_a_pack_that_is_cut_short_is_found_with_the_paths_in_it(made: Experiment) -> None:
    damage = found_from(2, made.alter(made.data_pack(0), lambda data: data[:-500_000]))
    assert (damage.kind, affected(damage)) == ("pack-footer", [([0], False, (b"model",))])


def test_a_pack_under_the_name_of_another_is_found(made: Experiment, copy: MemoryTransport) -> None:
    swapped = made.alter(made.data_pack(1), lambda data: copy.get(made.data_pack(2)))
    for level in (2, 4):
        (damage,) = check(swapped, level).damage
        assert (damage.where, affected(damage)) == (made.data_pack(1), [([1], False, (b"model",))])
    assert kinds(check(swapped)) == ["pack-bytes"]


def test_a_flipped_bit_in_a_locator_takes_all_of_what_it_leads_to(made: Experiment) -> None:
    ref = made.saves[2].record.locator
    damage = found_from(2, made.alter(made.meta_pack(2), flip(ref.offset + 70)))
    assert (damage.kind, affected(damage)) == ("locator", [([2], True, ())])


def test_a_flipped_bit_in_a_tree_is_found_with_the_folder(tmp_path: Path) -> None:
    small = SmallStore(tmp_path)
    small.transport.put("ctl/v1", MARKER)
    save = small.save({"a": b"1", "deep": {"sub": {"b": b"2"}}})
    (place,) = small.locations(save).find(save.folders["/deep/sub"][0])
    small.index.close()
    keys = keys_of(small.transport)
    key = pack_key(place.pack)
    damage = found_from(2, Altered(keys, key, flip(place.entry.offset + place.entry.length - 1)(keys[key])))
    assert (damage.kind, affected(damage)) == ("object", [([0], False, (b"deep/sub/",))])


# -- stores whose hashes are right, and whose content is not


def crafted(
    tree: Frame,
    frames: Sequence[Frame] = (),
    *,
    listed: Callable[[Sequence[Entry]], Iterable[Entry]] = lambda entries: entries,
    packset: Sequence[ObjectID] | None = None,
) -> MemoryTransport:
    """Return a store with one commit of a tree: what its locator lists of its pack, and its packset, can be wrong."""
    encoded = encode_commit(Commit(tree=tree.object_id, author="ada", time_ns=1, nonce=bytes(16)))
    own = [*frames, tree, Frame(encoded, Kind.COMMIT)]
    locator = Locator(tuple(listed(build_pack(own).entries)), (), (), len(own), len(own))
    pack = build_pack([*own, Frame(locator.encode(), Kind.LOCATOR)], is_meta=True)
    place = pack.entries[-1]
    transport = MemoryTransport()
    transport.put("ctl/v1", MARKER)
    transport.put(pack.key, pack.data)
    fields = {
        "commit": encoded,
        "packset": [bytes(one) for one in ([pack.pack_id] if packset is None else packset)],
        "meta": [],
        "locator": [bytes(pack.pack_id), place.offset, place.length],
    }
    wanted = commit_id(encoded)
    name, data = encode_record(wanted, 0, SESSION, "c", fields, wanted.hex())
    transport.put(name.key, data)
    return transport


HELLO = entry("hello")
GREETING = Frame(b"hello\n")


def without(lost: ObjectID) -> Callable[[Sequence[Entry]], Iterable[Entry]]:
    return lambda entries: [one for one in entries if one.object_id != lost]


def folder_of(name: str, frame: Frame, size: int) -> Frame:
    return tree_frame([TreeEntry(name.encode(), Mode.DIRECTORY, size, frame.object_id)])


def test_a_crafted_store_can_be_sound() -> None:
    assert check(crafted(tree_frame([HELLO]), [GREETING])).damage == ()


def test_a_blob_that_the_locator_lacks_is_found() -> None:
    damage = found_from(2, crafted(tree_frame([HELLO]), [GREETING], listed=without(GREETING.object_id)))
    assert (damage.kind, damage.where) == ("closure", f"blob {GREETING.object_id.hex()}")
    assert affected(damage) == [([0], False, (b"hello",))]


def test_a_tree_that_the_locator_lacks_is_found() -> None:
    tree = tree_frame([HELLO])
    damage = found_from(2, crafted(tree, [GREETING], listed=without(tree.object_id)))
    assert (damage.kind, affected(damage)) == ("closure", [([0], True, (b"",))])


@pytest.mark.parametrize(
    "change", [{"offset": 33}, {"offset": 1 << 27}, {"raw_length": 7}, {"depth": 1}, {"length": 61}]
)
def test_an_entry_of_a_locator_that_leads_to_no_frame_is_found(change: dict[str, Any]) -> None:
    def listed(entries: Sequence[Entry]) -> Iterable[Entry]:
        return [one._replace(**change) if one.object_id == GREETING.object_id else one for one in entries]

    damage = found_from(2, crafted(tree_frame([HELLO]), [GREETING], listed=listed))
    assert (damage.kind, affected(damage)) == ("locator-entry", [([0], False, (b"hello",))])


def test_a_packset_that_lacks_a_pack_is_found() -> None:
    damage = found_from(2, crafted(tree_frame([HELLO]), [GREETING], packset=[]))
    assert (damage.kind, damage.affects[0].commits[0].seq) == ("packset", 0)


def test_a_size_that_is_not_the_blobs_is_found() -> None:
    damage = found_from(2, crafted(tree_frame([HELLO._replace(size_bytes=7)]), [GREETING]))
    assert (damage.kind, affected(damage)) == ("object", [([0], False, (b"hello",))])


def test_a_size_that_is_not_the_directorys_is_found() -> None:
    below = tree_frame([HELLO])
    damage = found_from(2, crafted(folder_of("lib", below, 7), [GREETING, below]))
    assert (damage.kind, affected(damage)) == ("object", [([0], False, (b"lib/",))])


def test_a_tree_that_is_not_canonical_is_found() -> None:
    below = Frame(encode_tree([HELLO]) + b"\xc0", Kind.TREE)
    damage = found_from(2, crafted(folder_of("lib", below, 6), [GREETING, below]))
    assert (damage.kind, affected(damage)) == ("object", [([0], False, (b"lib/",))])


def test_two_trees_that_are_patches_on_each_other_are_found() -> None:
    left, right = (encode_tree([HELLO, entry(name)]) for name in ("left", "right"))
    frames = [patch_frame(left, right), patch_frame(right, left)]
    tree = tree_frame(
        [
            TreeEntry(name, Mode.DIRECTORY, 12, object_id(Kind.TREE, data))
            for name, data in ((b"l", left), (b"r", right))
        ]
    )
    damage = check(crafted(tree, [GREETING, *frames]), 2).damage
    assert [one.kind for one in damage] == ["object", "object"]
    assert {path for one in damage for path in one.affects[0].paths} == {b"l/", b"r/"}
    assert all("I7" in one.why for one in damage)


def test_a_base_that_the_locator_lacks_is_found() -> None:
    base, data = (encode_tree([HELLO, entry(name)]) for name in ("base", "data"))
    patched = patch_frame(base, data)
    frames = [GREETING, patched, Frame(base, Kind.TREE)]
    store = crafted(folder_of("lib", patched, 12), frames, listed=without(object_id(Kind.TREE, base)))
    damage = found_from(2, store)
    assert (damage.kind, affected(damage)) == ("object", [([0], False, (b"lib/",))])


def test_a_depth_that_does_not_fit_the_encoding_is_found() -> None:
    damage = found_from(2, crafted(tree_frame([HELLO]), [replace(GREETING, depth=1)]))
    assert (damage.kind, affected(damage)) == ("object", [([0], False, (b"hello",))])


def test_an_encoding_of_a_later_version_is_told() -> None:
    damage = found_from(2, crafted(tree_frame([HELLO]), [replace(GREETING, encoding=99)]))
    assert (damage.kind, affected(damage)) == ("encoding", [([0], False, (b"hello",))])


def test_a_chunk_that_the_locator_lacks_is_found() -> None:
    whole, chunk = concat_frame(b"abc", b"de"), Frame(b"de")
    tree = tree_frame([entry("big", b"abcde")])
    damage = found_from(2, crafted(tree, [whole, Frame(b"abc"), chunk], listed=without(chunk.object_id)))
    assert (damage.kind, damage.where) == ("closure", f"blob {chunk.object_id.hex()}")
    assert affected(damage) == [([0], False, (b"big",))]


@pytest.mark.parametrize("second", [b"de", b"def"])
def test_a_chunk_that_is_a_concat_or_of_another_length_is_found(second: bytes) -> None:
    inner = concat_frame(b"d", b"e") if second == b"de" else Frame(second, raw_length=None)
    whole = concat_frame(b"abc", second[:2])
    row = whole.stored[:36] + inner.object_id + whole.stored[68:]
    frames = [replace(whole, payload=row), Frame(b"abc"), inner, Frame(b"d"), Frame(b"e")]
    damage = found_from(2, crafted(tree_frame([entry("big", b"abcde")]), frames))
    assert (damage.kind, affected(damage)) == ("object", [([0], False, (b"big",))])


def test_directories_that_are_nested_too_deep_are_found() -> None:
    frames = [tree_frame([])]
    for _ in range(1_001):
        frames.append(folder_of("d", frames[-1], 0))
    assert check(crafted(frames[-2], frames[:-2]), 2).damage == ()
    assert found_from(2, crafted(frames[-1], frames[:-1])).kind == "object"


# -- level 4


@pytest.mark.parametrize("at", [100, 600_000])
def test_a_flipped_bit_in_a_frame_is_found_with_the_paths_in_it(made: Experiment, at: int) -> None:
    damage = found_from(4, made.alter(made.data_pack(1), flip(at)))
    assert (damage.kind, damage.where) == ("pack-bytes", made.data_pack(1))
    assert affected(damage) == [([1], False, (b"model",))]


@pytest.mark.parametrize("at", [0, 8, 12, 20])
def test_a_flipped_bit_in_the_header_of_a_pack_is_found_and_loses_no_file(made: Experiment, at: int) -> None:
    damage = found_from(4, made.alter(made.data_pack(1), flip(at)))
    assert (damage.kind, affected(damage)) == ("pack-bytes", [([1, 2], False, ())])


def test_a_header_of_another_format_is_found() -> None:
    data = build_pack([GREETING]).data
    odd = data[:8] + b"\xff" + data[9:]
    transport = crafted(tree_frame([HELLO]), [GREETING])
    (key,) = [info.key for info in transport.list("packs/")]
    assert pack_id(odd) != pack_id(data)
    assert kinds(check(Altered(keys_of(transport), key, flip(9)(transport.get(key))))) == ["pack-bytes"]


def test_an_object_that_is_not_what_its_id_says_is_found() -> None:
    lie = Frame(b"hullo\n", claimed=GREETING.object_id)
    damage = found_from(4, crafted(tree_frame([HELLO]), [lie]))
    assert (damage.kind, affected(damage)) == ("pack-content", [([0], False, (b"hello",))])


def test_a_whole_file_that_is_not_what_its_id_says_is_found() -> None:
    lie = replace(concat_frame(b"abc", b"xx"), claimed=entry("big", b"abcde").object_id)
    damage = found_from(4, crafted(tree_frame([entry("big", b"abcde")]), [lie, Frame(b"abc"), Frame(b"xx")]))
    assert (damage.kind, affected(damage)) == ("object", [([0], False, (b"big",))])


def test_another_sound_copy_of_an_object_saves_the_file(tmp_path: Path) -> None:
    """The pack that holds one of the copies is damaged; both are in the locator."""
    bad = build_pack([GREETING], b"bad".ljust(16))
    good = build_pack([GREETING], b"good".ljust(16))
    transport = MemoryTransport()
    tree = tree_frame([HELLO])
    encoded = encode_commit(Commit(tree=tree.object_id, author="ada", time_ns=1, nonce=bytes(16)))
    own = [tree, Frame(encoded, Kind.COMMIT)]
    locator = Locator(build_pack(own).entries, (*bad.places, *good.places), (), 4, 4)
    meta = build_pack([*own, Frame(locator.encode(), Kind.LOCATOR)], is_meta=True)
    transport.put("ctl/v1", MARKER)
    for key, data in ((meta.key, meta.data), (good.key, good.data), (bad.key, flip(93)(bad.data))):
        transport.put(key, data)
    fields = {
        "commit": encoded,
        "packset": sorted(bytes(one.pack_id) for one in (bad, good, meta)),
        "locator": [bytes(meta.pack_id), meta.entries[-1].offset, meta.entries[-1].length],
    }
    wanted = commit_id(encoded)
    name, record = encode_record(wanted, 0, SESSION, "c", fields, wanted.hex())
    transport.put(name.key, record)
    damage = found_from(4, transport)
    assert (damage.where, affected(damage)) == (bad.key, [([0], False, ())])


# -- all at once, and only some


def test_everything_that_is_damaged_is_found_in_one_go(made: Experiment, copy: MemoryTransport) -> None:
    copy.delete([made.data_pack(0)])
    copy.put("refs/stray", b"x")
    damaged = Altered(keys_of(copy), made.data_pack(1), flip(500)(copy.get(made.data_pack(1))))
    damaged.delete([made.meta_pack(2)])
    report = check(damaged)
    assert kinds(report) == ["stray-key", "pack-missing", "pack-missing", "pack-bytes"]
    told = [sorted(affected(one)) for one in report.damage if one.affects]
    assert sorted(told) == [
        [([0, 1], False, (b"lib/a.py", b"model"))],
        [([1], False, (b"model",))],
        [([2], True, ())],
    ]


def test_only_some_commits_are_looked_into(made: Experiment, copy: MemoryTransport) -> None:
    copy.delete([made.data_pack(1)])
    commits = [save.record.commit_id for save in made.saves]
    assert check(copy, commits=[commits[0]]).damage == ()
    assert check(copy, commits=[commits[2]]).damage != ()  # it names the pack, but needs nothing of it
    assert affected(check(copy, commits=commits[:2]).damage[0]) == [([1], False, (b"model",))]
    assert check(copy, commits=[commits[0]]).notes == ()


def test_packs_that_nothing_refers_to_and_temporary_files_are_notes(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    project.write("a", "1")
    project.begin().end("finished")
    pack = build_pack([GREETING])
    path = project.store / pack.key
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pack.data[:-9])
    (project.store / "local" / "tmp" / "left").write_bytes(b"half")
    report = check_store(project.store)
    assert [(note.kind, note.count, note.size_bytes) for note in report.notes] == [
        ("unreferenced-packs", 1, len(pack.data) - 9),
        ("temporary-files", 1, 4),
    ]


def test_the_environment_of_a_session_is_checked(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    project.write("a", "1")
    session = project.begin()
    session.end("finished")
    (start,) = project.experiment().starts
    assert start.locator is not None
    check_store(project.store)
    (place,) = project.open().view(start.locator).find(blob_id(b"[]\n"))
    path = project.store / pack_key(place.pack)
    content = flip(place.entry.offset + place.entry.length - 1)(path.read_bytes())
    path.chmod(0o644)
    path.write_bytes(content)
    (damage,) = fsck(project.open().transport, str(project.store), SilentReporter(), level=4).damage
    assert [(each.part, each.commits) for each in damage.affects] == [("the environment of a session", ())]


def test_progress_is_told_and_ended(made: Experiment) -> None:
    class Told(SilentReporter):
        def __init__(self) -> None:
            self.open = 0
            self.tasks: list[tuple[str, int, int]] = []
            self.done: Counter[str] = Counter()

        def begin(self, task: str, files: int, size_bytes: int) -> None:
            assert self.open == 0
            self.open += 1
            self.tasks.append((task, files, size_bytes))

        def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
            self.done[self.tasks[-1][0]] += files

        def finish(self) -> None:
            self.open -= 1

    told = Told()
    report = fsck(made.transport, "nowhere", told, level=4)
    assert told.open == 0
    assert told.tasks == [
        ("checking records", 3, 0),
        ("checking packs", 6, report.pack_bytes),
        ("checking commits", 3, 0),
    ]
    assert told.done == {"checking records": 3, "checking packs": 6, "checking commits": 3}


class Together(MemoryTransport):
    """A store whose packs are given out, the first time, only when so many are asked for at once."""

    def __init__(self, keys: Mapping[str, bytes], together: int) -> None:
        super().__init__()
        for key, data in keys.items():
            self.put(key, data)
        self._left = {key for key in keys if key.startswith("packs/")}
        self._barrier = threading.Barrier(together)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if key in self._left and threading.current_thread() is not threading.main_thread():
            self._left.remove(key)
            self._barrier.wait(10)
        return super().get(key, start, end)


@pytest.mark.parametrize("level", [2, 4])
def test_packs_are_read_side_by_side_and_told_in_order(made: Experiment, level: int) -> None:
    sizes: list[int] = []

    class Told(SilentReporter):
        def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
            sizes.extend([size_bytes] if size_bytes else [])

    keys = keys_of(made.transport)
    packs = sorted(key for key in keys if key.startswith("packs/"))
    report = fsck(Together(keys, len(packs)), "nowhere", Told(), level=level)
    assert report == check(made.transport, level)
    assert sizes == [len(keys[key]) for key in packs]


def test_so_many_bytes_of_packs_are_read_at_a_time(made: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    held: Counter[str] = Counter()
    lock = threading.Lock()

    def hold(size: int) -> None:
        with lock:
            held["now"] += size
            held["most"] = max(held["most"], held["now"])

    class Reading(MemoryTransport):
        def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            data = super().get(key, start, end)
            if threading.current_thread() is not threading.main_thread():
                hold(len(data))
            return data

    class Judged(SilentReporter):
        def advance(self, files: int, size_bytes: int, new_bytes: int = 0) -> None:
            hold(-size_bytes)

    monkeypatch.setattr(threads, "MAX_HELD_BYTES", 2_500_000)
    transport = Reading()
    for key, data in keys_of(made.transport).items():
        transport.put(key, data)
    report = fsck(transport, "nowhere", Judged(), level=4)
    assert report.damage == ()
    assert 1_000_000 < held["most"] <= 2_500_000 < report.pack_bytes
    assert held["now"] == 0


def test_a_damage_of_no_object_names_what_it_is() -> None:
    assert {cause.level for cause in CAUSES.values()} == set(LEVELS)
    assert all(kind == kind.lower() and " " not in kind for kind in CAUSES)
