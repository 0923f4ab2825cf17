from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.objects.ids import ObjectID
from replicate.sync.control import Identity
from replicate.sync.journal import Journal
from tests.builders import some_id
from tests.projects import reads_everything

PACKS = [some_id(f"pack {number}") for number in range(20)]
RECORDS = [f"refs/aa/{number:064x}~00000000~0000000000000000~c~-~{number:032x}" for number in range(20)]


PLACE = "s3://bucket/path"


def identity(*stores: str) -> Identity:
    return Identity(frozenset(f"store~{one}" for one in stores), frozenset())


def opened(folder: Path, *stores: str, **given: bool) -> Journal:
    return Journal(str(folder), PLACE, identity(*stores or ("one",)), **given)


def file_of(folder: Path, *stores: str) -> Path:
    return folder / identity(*stores or ("one",)).digest(PLACE)


def filled(folder: Path) -> Journal:
    journal = opened(folder)
    journal.add_packs(PACKS)
    journal.add_records(RECORDS)
    journal.note_look([PACKS[0]])
    return journal


def test_what_was_added_is_there_the_next_time(tmp_path: Path) -> None:
    filled(tmp_path)
    again = opened(tmp_path)
    assert (again.packs, again.records) == (set(PACKS), set(RECORDS))
    assert again.knows(PACKS[0])
    assert not again.knows(PACKS[1])
    again.note_look(None)
    assert opened(tmp_path).knows(PACKS[1])


def test_another_store_has_another_journal_and_voids_the_first(tmp_path: Path) -> None:
    filled(tmp_path)
    other = opened(tmp_path, "two")
    assert (other.packs, other.records, other.was_replaced) == (set(), set(), True)
    assert os.listdir(tmp_path) == [file_of(tmp_path, "two").name]
    assert not opened(tmp_path, "two").was_replaced


def test_a_store_that_another_was_united_with_is_looked_at_anew_but_was_not_replaced(tmp_path: Path) -> None:
    filled(tmp_path)
    united = opened(tmp_path, "one", "two")
    assert (united.packs, united.was_replaced) == (set(), False)
    assert len(os.listdir(tmp_path)) == 1
    assert opened(tmp_path, "two").was_replaced


def test_journals_of_other_places_stay(tmp_path: Path) -> None:
    filled(tmp_path)
    assert not Journal(str(tmp_path), "s3://bucket/path2", identity("two")).was_replaced
    assert opened(tmp_path).packs == set(PACKS)


def test_one_that_is_only_read_is_not_written(tmp_path: Path) -> None:
    filled(tmp_path)
    before = file_of(tmp_path).read_bytes()
    journal = opened(tmp_path, read_only=True)
    journal.add_packs([some_id("more")])
    journal.drop()
    assert file_of(tmp_path).read_bytes() == before
    assert opened(tmp_path, "two", read_only=True).was_replaced
    assert os.listdir(tmp_path) == [file_of(tmp_path).name]


def test_one_that_was_dropped_knows_nothing(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.drop()
    assert (journal.packs, journal.records, journal.knows(PACKS[0])) == (set(), set(), False)
    again = opened(tmp_path)
    assert (again.packs, again.records) == (set(), set())
    journal.add_packs(PACKS)
    assert opened(tmp_path).packs == set(PACKS)


@given(data=st.data())
def test_damage_to_the_file_makes_no_key_known_that_was_not_added(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = opened(folder)
    journal.add_packs(PACKS[::2])
    journal.add_records(RECORDS[::2])
    content = file_of(folder).read_bytes()
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    filling = data.draw(st.sampled_from([b"", b"\0" * (end - begin), b"\xff\n", b"refs/", b"pack "]))
    file_of(folder).write_bytes(content[:begin] + filling + content[end:])
    damaged = opened(folder)
    damaged.add_packs([some_id("more")])
    again = opened(folder)
    assert some_id("more") in again.packs
    for one in (damaged, again):
        assert one.packs.isdisjoint(PACKS[1::2])
        assert one.records.isdisjoint(RECORDS[1::2])
        assert not one.knows(PACKS[0])


def test_several_may_add_at_once(tmp_path: Path) -> None:
    def add(number: int) -> None:
        journal = opened(tmp_path)
        for count in range(50):
            journal.add_packs([some_id(f"{number} {count}")])

    opened(tmp_path)
    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened(tmp_path).packs) == 400


def test_where_it_cannot_be_written_it_lasts_as_long_as_the_process(tmp_path: Path) -> None:
    if reads_everything():
        (tmp_path / "folder").write_text("")  # a file in its place
    else:
        (tmp_path / "folder").mkdir(mode=0o500)
    journal = filled(tmp_path / "folder")
    assert journal.packs == set(PACKS)
    assert opened(tmp_path / "folder").packs == set()


def test_what_is_known_depends_on_place_store_and_collections(tmp_path: Path) -> None:
    one = Identity(frozenset({"store~1"}), frozenset())
    digests = {
        one.digest("s3://a/b"),
        one.digest("s3://a/c"),
        Identity(frozenset({"store~2"}), frozenset()).digest("s3://a/b"),
        Identity(frozenset({"store~1"}), frozenset({"x~1"})).digest("s3://a/b"),
        one.digest(str(tmp_path)),
    }
    (tmp_path / "mounted").mkdir()
    digests.add(one.digest(str(tmp_path / "mounted")))
    (tmp_path / "other").mkdir()
    (tmp_path / "mounted").rmdir()
    (tmp_path / "other").rename(tmp_path / "mounted")  # another disk at the same path
    digests.add(one.digest(str(tmp_path / "mounted")))
    assert len(digests) == 7
    assert isinstance(PACKS[0], ObjectID)
