from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError
from replicate.objects.ids import ObjectID
from replicate.refs.names import NO_SUBJECT, RecordName, experiment_prefix
from replicate.transport import validate_key
from tests.builders import some_id
from tests.strategies import digests, ids, sessions

record_names = st.builds(
    RecordName,
    ids,
    st.integers(0, (1 << 32) - 1),
    sessions,
    st.sampled_from("abcdefghijklmnopqrstuvwxyz"),
    st.just(NO_SUBJECT) | digests.map(bytes.hex),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
)


@given(record_names)
def test_a_name_comes_back_from_its_key(name: RecordName) -> None:
    assert RecordName.parse(name.key) == name
    assert validate_key(name.key) == name.key
    assert all(len(part) <= 255 for part in name.key.split("/"))


@given(record_names)
def test_an_experiments_records_have_its_prefix(name: RecordName) -> None:
    assert name.key.startswith(experiment_prefix(name.experiment))


@given(record_names, record_names)
def test_keys_of_an_experiment_sort_by_seq(first: RecordName, second: RecordName) -> None:
    second = RecordName(first.experiment, second.seq, second.session, second.kind, second.subject, second.record_hash)
    if first.seq != second.seq:
        assert (first.key < second.key) == (first.seq < second.seq)


def test_a_key_looks_as_in_the_spec() -> None:
    experiment, commit = some_id("experiment"), some_id("commit")
    name = RecordName(experiment, 255, "0123456789abcdef", "c", commit.hex(), "ab" * 16)
    digits = experiment.hex()
    assert name.key == f"refs/{digits[:2]}/{digits}~000000ff~0123456789abcdef~c~{commit.hex()}~{'ab' * 16}"


@pytest.mark.parametrize(
    "key", ["", "refs/", "refs/aa/readme", "packs/aa/" + "a" * 64, "refs/aa/\udcff", "refs/aa/.DS_Store"]
)
def test_another_key_is_told_as_such(key: str) -> None:
    with pytest.raises(CorruptionError) as caught:
        RecordName.parse(key)
    assert str(caught.value) == f"{key} is not the key of a ref record"
    assert caught.value.where == key


@given(record_names, st.data())
def test_a_changed_character_is_another_name_or_refused(name: RecordName, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name.key) - 1))
    other = name.key[:at] + data.draw(st.sampled_from("0af~/-zG")) + name.key[at + 1 :]
    try:
        parsed = RecordName.parse(other)
    except CorruptionError:
        return
    assert parsed.key == other
    assert isinstance(parsed.experiment, ObjectID)
