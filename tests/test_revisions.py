"""What a person types to name a commit."""

from __future__ import annotations

import pytest

from replicate.errors import AmbiguousRevisionError, InvalidInputError, RevisionNotFoundError
from replicate.history import History
from replicate.revisions import check_experiment_name, resolve, resolve_experiment
from tests.histories import checkpoint, history, root

LOSS = ("loss", "minimize")


@pytest.fixture
def found() -> History:
    """Two experiments: `first` with three checkpoints, and one forked from its second without a name."""
    return history(
        root("aaaa1", name="first", time=1, primary=LOSS),
        checkpoint("aaaa1", "c0001", 1, metrics={"loss": 3}, time=2),
        checkpoint("aaaa1", "c0002", 2, parent="c0001", metrics={"loss": 1}, time=3),
        checkpoint("aaaa1", "c0003", 3, parent="c0002", metrics={"loss": 2}, time=4),
        root("bbbb1", time=5, parent="c0002"),
        checkpoint("bbbb1", "d0001", 1, time=6),
    )


def named(found: History, text: str, *, plumbing: bool = False) -> str:
    """Return the first five digits of the commit that a revision names."""
    return resolve(found, text, plumbing=plumbing).record.commit_id.hex()[:5]


def lookup_error(found: History, text: str) -> str:
    with pytest.raises(RevisionNotFoundError) as raised:
        resolve(found, text)
    return str(raised.value)


def input_error(found: History, text: str) -> str:
    with pytest.raises(InvalidInputError) as raised:
        resolve(found, text)
    return str(raised.value)


# -- ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["c0002", "c00020", "c0002".ljust(64, "0")])
def test_a_prefix_of_an_id_names_a_commit(found: History, text: str) -> None:
    assert named(found, text) == "c0002"


def test_four_digits_suffice(found: History) -> None:
    assert named(found, "aaaa@start") == "aaaa1"


def test_three_digits_do_not(found: History) -> None:
    assert input_error(found, "c00") == "c00 is too short: an id needs at least 4 digits"


def test_a_prefix_of_no_id_is_not_found(found: History) -> None:
    assert lookup_error(found, "eeee") == (
        "no experiment or checkpoint has an id that begins with eeee (hint: `replicate ls` shows what there is)"
    )


@pytest.mark.parametrize("text", ["c" * 65, "C0002", "c0002 ", "nobody", ""])
def test_what_is_no_id_is_a_name(found: History, text: str) -> None:
    told = lookup_error(found, text)
    assert told == f"no experiment or tag is named {text!r} (hint: `replicate ls` shows what there is)"


def test_a_prefix_of_several_checkpoints_lists_them_with_as_many_digits_as_tell_them_apart(found: History) -> None:
    with pytest.raises(AmbiguousRevisionError) as raised:
        resolve(found, "c000")
    assert str(raised.value) == (
        "c000 matches 3 checkpoints: c000100 (step 0), c000200 (step 1), c000300 (step 2) (hint: type one more digit)"
    )
    assert [candidate[:5] for candidate in raised.value.candidates] == ["c0001", "c0002", "c0003"]


def test_candidates_that_agree_on_many_digits_are_shown_with_one_more() -> None:
    found = history(root("aaaa1"), checkpoint("aaaa1", "c" * 20 + "1", 1), checkpoint("aaaa1", "c" * 20 + "2", 2))
    with pytest.raises(AmbiguousRevisionError) as raised:
        resolve(found, "cccc")
    assert str(raised.value) == (
        f"cccc matches 2 checkpoints: {'c' * 20}1 (step 0), {'c' * 20}2 (step 1) (hint: type 17 more digits)"
    )


def test_a_prefix_of_several_experiments_says_so_and_describes_them() -> None:
    found = history(root("aaaa1", name="one"), root("aaaa2"))
    with pytest.raises(AmbiguousRevisionError) as raised:
        resolve(found, "aaaa")
    assert raised.value.message == "aaaa matches 2 experiments: aaaa100 (one), aaaa200"
    with pytest.raises(AmbiguousRevisionError) as raised:
        resolve(found, "aaaa", describe=lambda experiment: f"of {experiment.author}")
    assert raised.value.message == "aaaa matches 2 experiments: aaaa100 (of ada@box), aaaa200 (of ada@box)"


def test_a_prefix_of_an_experiment_and_a_checkpoint_says_commits() -> None:
    found = history(root("aaaa1"), checkpoint("aaaa1", "aaaa2", 1))
    with pytest.raises(AmbiguousRevisionError) as raised:
        resolve(found, "aaaa")
    assert raised.value.message == "aaaa matches 2 commits: aaaa100, aaaa200 (step 0)"


def test_of_many_candidates_ten_are_shown_and_all_are_kept() -> None:
    found = history(root("aaaa1"), *(checkpoint("aaaa1", f"cccc{number:02}", number) for number in range(1, 13)))
    with pytest.raises(AmbiguousRevisionError) as raised:
        resolve(found, "cccc")
    assert raised.value.message.count("(step") == 10
    assert raised.value.message.endswith(", …")
    assert len(raised.value.candidates) == 12


# -- names ----------------------------------------------------------------------------------------------------------


def test_a_name_means_its_experiment(found: History) -> None:
    resolution = resolve(found, "first@start")
    assert resolution.record.commit_id.hex()[:5] == "aaaa1"
    assert resolution.notices == ()


def test_a_name_of_several_means_the_newest_and_says_so() -> None:
    found = history(root("aaaa1", name="same", time=1), root("bbbb1", name="same", time=2))
    resolution = resolve(found, "same@start")
    assert resolution.record.commit_id.hex()[:5] == "bbbb1"
    assert resolution.notices == ("2 experiments are named same; taking the newest, bbbb100",)


def test_a_name_outweighs_an_id() -> None:
    found = history(root("aaaa1", name="cab"), root("cab01"))
    assert named(found, "cab@start") == "aaaa1"


@pytest.mark.parametrize(
    "name", ["a", "baseline", "lr 0.1", "run.7", "é", "abc", "BEEF", "deadbeefx", "best-of", "x" * 100]
)
def test_names_that_experiments_may_have(name: str) -> None:
    assert check_experiment_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "1 to 100 bytes, no space at the ends"),
        (" a", "1 to 100 bytes, no space at the ends"),
        ("a\n", "1 to 100 bytes, no space at the ends"),
        ("x" * 101, "1 to 100 bytes, no space at the ends"),
        ("é" * 51, "1 to 100 bytes, no space at the ends"),
        ("a@b", "it must not hold @ ~ : / or control characters"),
        ("a~1", "it must not hold @ ~ : / or control characters"),
        ("a:b", "it must not hold @ ~ : / or control characters"),
        ("a/b", "it must not hold @ ~ : / or control characters"),
        ("a\x00b", "it must not hold @ ~ : / or control characters"),
        ("a\x1b[0m", "it must not hold @ ~ : / or control characters"),
        ("best", "it has a meaning as a revision"),
        ("latest", "it has a meaning as a revision"),
        ("start", "it has a meaning as a revision"),
        ("beef", "it looks like an id"),
        ("1234", "it looks like an id"),
        ("a" * 64, "it looks like an id"),
        ("-f", "it looks like an option"),
    ],
)
def test_names_that_experiments_may_not_have(name: str, why: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        check_experiment_name(name)
    assert raised.value.message == f"{name!r} is no name: {why}"


@pytest.mark.parametrize("name", [3, None, b"a", "a\udcff"])
def test_a_name_is_text(name: object) -> None:
    with pytest.raises(InvalidInputError) as raised:
        check_experiment_name(name)  # type: ignore[arg-type]
    assert raised.value.message == f"{name!r} is no name: it must be Unicode text"


# -- an experiment alone --------------------------------------------------------------------------------------------


def test_an_experiment_alone_means_its_best_checkpoint(found: History) -> None:
    resolution = resolve(found, "first")
    assert resolution.record.commit_id.hex()[:5] == "c0002"
    assert resolution.notices == ("aaaa100 is an experiment: taking its best checkpoint, c000200 (step 1)",)
    assert resolution.is_whole_experiment


def test_without_a_best_it_means_the_latest(found: History) -> None:
    resolution = resolve(found, "bbbb1")
    assert resolution.record.commit_id.hex()[:5] == "d0001"
    assert resolution.notices == ("bbbb100 is an experiment: taking its latest checkpoint, d000100 (step 0)",)


def test_without_a_checkpoint_it_means_the_start() -> None:
    resolution = resolve(history(root("aaaa1")), "aaaa1")
    assert resolution.record.commit.is_root
    assert resolution.notices == ("aaaa100 has no checkpoint: taking its start",)


def test_in_plumbing_it_means_the_root_without_a_word(found: History) -> None:
    resolution = resolve(found, "first", plumbing=True)
    assert resolution.record.commit.is_root
    assert resolution.notices == ()


def test_a_checkpoint_is_no_whole_experiment(found: History) -> None:
    assert not resolve(found, "c0002").is_whole_experiment
    assert not resolve(found, "first@best").is_whole_experiment


# -- latest, best, X@… ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("latest", "d0001"),
        ("best", "c0002"),
        ("first@best", "c0002"),
        ("first@latest", "c0003"),
        ("first@start", "aaaa1"),
        ("aaaa1@latest", "c0003"),
        ("bbbb@latest", "d0001"),
        ("bbbb@start", "bbbb1"),
    ],
)
def test_selectors(found: History, text: str, wanted: str) -> None:
    assert named(found, text) == wanted


def test_best_is_of_the_newest_experiment_with_a_primary_metric(found: History) -> None:
    newer = root("eeee1", time=9, primary=("accuracy", "maximize"))
    both = history(*found.records(), newer, checkpoint("eeee1", "e0001", 1, metrics={"accuracy": 1}, time=10))
    assert named(both, "best") == "e0001"
    assert named(history(*found.records(), newer), "best") == "c0002"


def test_best_says_when_an_older_experiment_with_the_same_metric_is_better(found: History) -> None:
    newer = root("eeee1", time=9, primary=LOSS)
    both = history(*found.records(), newer, checkpoint("eeee1", "e0001", 1, metrics={"loss": 1.5}, time=10))
    resolution = resolve(both, "best")
    assert resolution.record.commit_id.hex()[:5] == "e0001"
    assert resolution.notices == ("best is that of the newest experiment, eeee100 with loss 1.5; aaaa100 has 1",)
    equal = history(*found.records(), newer, checkpoint("eeee1", "e0001", 1, metrics={"loss": 1}, time=10))
    assert resolve(equal, "best").notices == ()


def test_latest_is_by_time_across_experiments() -> None:
    found = history(
        root("aaaa1", time=1),
        checkpoint("aaaa1", "c0001", 9, time=5),
        root("bbbb1"),
        checkpoint("bbbb1", "d0001", 1, time=7),
    )
    assert named(found, "latest") == "d0001"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "bbbb@best",
            "experiment bbbb100 has no checkpoint with a primary metric (hint: bbbb100@start is its code at the start)",
        ),
        ("nobody@best", "no experiment or tag is named 'nobody' (hint: `replicate ls` shows what there is)"),
        ("@best", "no experiment or tag is named '' (hint: `replicate ls` shows what there is)"),
    ],
)
def test_selectors_that_find_nothing(found: History, text: str, message: str) -> None:
    assert lookup_error(found, text) == message


@pytest.mark.parametrize("selector", ["best", "latest"])
def test_an_experiment_without_checkpoints_has_neither_best_nor_latest(selector: str) -> None:
    assert lookup_error(history(root("aaaa1")), f"aaaa1@{selector}") == (
        "experiment aaaa100 has no checkpoint (hint: aaaa100@start is its code at the start)"
    )


def test_latest_and_best_of_nothing() -> None:
    assert lookup_error(history(root("aaaa1")), "latest") == (
        "there is no checkpoint yet (hint: `replicate checkpoint` saves one)"
    )
    assert lookup_error(history(root("aaaa1")), "best") == (
        'no experiment has a primary metric (hint: give one: checkpoint(..., primary_metric=("loss", "minimize")))'
    )


@pytest.mark.parametrize("text", ["first@", "first@worst", "first@best@latest", "first@Best"])
def test_another_selector_is_refused(found: History, text: str) -> None:
    assert input_error(found, text) == f"{text!r} is no revision: after @ comes best, latest, start"


def test_a_checkpoint_has_no_selectors(found: History) -> None:
    assert input_error(found, "c0002@best") == (
        "c0002 is a checkpoint (step 1) where an experiment is expected (hint: its experiment is aaaa100)"
    )


# -- steps back and paths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("c0003~", "c0002"),
        ("c0003~0", "c0003"),
        ("c0003~1", "c0002"),
        ("c0003~2", "c0001"),
        ("c0003~3", "aaaa1"),
        ("latest~1", "bbbb1"),
        ("latest~2", "c0002"),
        ("d0001~3", "c0001"),
        ("first@latest~1", "c0002"),
        ("best~1", "c0001"),
        ("bbbb1~1", "bbbb1"),
        ("bbbb1@start~1", "c0002"),
        ("first~1", "c0002"),
    ],
)
def test_steps_back_walk_the_parents_also_across_a_fork(found: History, text: str, wanted: str) -> None:
    assert named(found, text) == wanted


@pytest.mark.parametrize("text", ["c0003~4", "first@start~1", "d0001~999999999"])
def test_steps_beyond_the_first_commit_are_not_found(found: History, text: str) -> None:
    assert lookup_error(found, text) == f"{text!r} goes back beyond the first commit"


@pytest.mark.parametrize("text", ["c0003~x", "c0003~-1", "c0003~1~1", "c0003~1.0", "c0003~²", "c0003~1000000000"])
def test_what_follows_a_tilde_is_a_number(found: History, text: str) -> None:
    assert input_error(found, text) == f"{text!r} is no revision: after ~ comes a number"


@pytest.mark.parametrize(
    ("text", "path"),
    [("c0002", None), ("c0002:", ""), ("c0002:a/b", "a/b"), ("first@best:x~1:y@z", "x~1:y@z"), ("c0003~1:a", "a")],
)
def test_what_follows_a_colon_is_a_path(found: History, text: str, path: str | None) -> None:
    resolution = resolve(found, text)
    assert resolution.path == path
    assert resolution.record.commit_id.hex()[:5] == "c0002"


# -- experiments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["first", "aaaa1", "aaaa"])
def test_an_experiment_is_found_by_name_or_prefix(found: History, text: str) -> None:
    assert resolve_experiment(found, text).root.commit.name == "first"


def test_a_checkpoint_where_an_experiment_is_expected_is_refused(found: History) -> None:
    with pytest.raises(InvalidInputError) as raised:
        resolve_experiment(found, "d0001")
    assert str(raised.value) == (
        "d0001 is a checkpoint (step 0) where an experiment is expected (hint: its experiment is bbbb100)"
    )
