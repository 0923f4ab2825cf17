from __future__ import annotations

import pytest

from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject


def test_a_tag_is_a_revision(shell: Shell, vision: Vision) -> None:
    one = vision.baseline.ids[0]
    result = shell("tag", one, "golden", "kept")
    assert (result.out, result.err, result.code) == ("", f"{one[:7]} is tagged golden, kept\n", 0)
    assert shell("rev-parse", "golden").lines == [one]
    assert shell("show", "golden:model.bin").out == "baseline 0\n"
    assert shell("rev-parse", "golden~1").lines == [vision.baseline.id]


def test_an_experiment_alone_means_itself_and_best_its_best_checkpoint(shell: Shell, vision: Vision) -> None:
    assert shell("tag", "baseline", "reference").code == 0
    assert shell("tag", "baseline@best", "golden").code == 0
    assert shell("rev-parse", "reference", "golden").lines == [vision.baseline.id, vision.baseline.ids[1]]


def test_tags_name_and_note_are_printed(shell: Shell, vision: Vision) -> None:
    assert shell("tag", "baseline", "b-tag", "a-tag", "--note", "first line\nsecond").code == 0
    result = shell("tag", "baseline")
    assert result.lines == ["name  baseline", "tags  a-tag, b-tag", "note  first line", "      second"]
    json = shell("tag", "baseline", "--json").json
    assert json == {
        "id": vision.baseline.id,
        "experiment": vision.baseline.id,
        "name": "baseline",
        "tags": ["a-tag", "b-tag"],
        "note": "first line\nsecond",
    }


def test_what_has_none_exits_with_1(shell: Shell, vision: Vision) -> None:
    one = vision.baseline.ids[0]
    result = shell("tag", one)
    assert (result.out, result.err, result.code) == ("", f"{one[:7]} has no tags, name or note\n", 1)


def test_a_tag_is_taken_away(shell: Shell, vision: Vision) -> None:
    shell("tag", "baseline", "golden", "kept")
    result = shell("tag", "baseline", "-d", "golden")
    assert result.err == f"{vision.baseline.short} is not tagged golden any more\n"
    assert shell("rev-parse", "golden").code == 3
    shell.fails(3, f"error: {vision.baseline.short} has no tag 'golden'\n", "tag", "baseline", "-d", "golden")


def test_a_tag_alone_is_taken_from_whoever_has_it(shell: Shell, vision: Vision) -> None:
    first = vision.baseline.ids[0]
    shell("tag", first, "good", "kept")
    shell("tag", "warmup", "bad")
    result = shell("tag", "-d", "bad", "-d", "good")
    assert result.err == (
        f"{vision.warmup.short} is not tagged bad any more\n{first[:7]} is not tagged good any more\n"
    )
    assert [one["tag"] for one in shell("tag", "--json").json] == ["kept"]
    shell.fails(3, "error: nothing is tagged 'bad'\nhint: `replicate tag` lists all tags\n", "tag", "-d", "bad")
    assert shell("tag", "-d", "kept", "-d", "bad").code == 3
    assert shell("rev-parse", "kept").lines == [first]


def test_a_tag_that_several_have_is_not_taken_from_any(shell: Shell, project: SampleProject) -> None:
    sessions = [project.begin({}, name=name, tags=("sweep",)) for name in ("one", "two")]
    one, two = (session.experiment_id.short for session in sessions)
    shell.fails(
        4,
        f"error: 2 commits are tagged 'sweep': {one}, {two}\nhint: name one: `replicate tag {one} -d sweep`\n",
        *("tag", "-d", "sweep"),
    )


def test_who_has_a_tag_is_told_when_it_is_taken_from_another(shell: Shell, vision: Vision) -> None:
    one = vision.baseline.ids[0]
    shell("tag", one, "golden")
    shell.fails(
        3,
        f"error: {vision.warmup.short} has no tag 'golden': it is that of {one[:7]}\n"
        f"hint: `replicate tag {one[:7]} -d golden` takes it away\n",
        *("tag", "warmup", "-d", "golden"),
    )


def test_a_name_is_given_and_taken_away(shell: Shell, vision: Vision) -> None:
    assert shell("tag", "baseline", "--name", "renamed").err == f"{vision.baseline.short} is named renamed\n"
    assert shell("rev-parse", "renamed").lines == [vision.baseline.id]
    assert shell("rev-parse", "baseline").code == 3
    assert shell("ls", "--json", "-f", "name = renamed").json[0]["id"] == vision.baseline.id
    assert shell("tag", "renamed", "--name", "").err == f"{vision.baseline.short} is without a name\n"
    assert shell("ls", "--json").json[1]["name"] is None


def test_the_tag_of_another_is_a_conflict_and_moves_by_force(shell: Shell, vision: Vision) -> None:
    first, second, _ = vision.baseline.ids
    shell("tag", first, "golden")
    shell.fails(
        4,
        f"error: 'golden' is the tag of checkpoint {first[:7]}\n"
        "hint: take another word, or force it to be moved here\n",
        "tag",
        second,
        "golden",
    )
    result = shell("tag", "-f", second, "golden")
    assert result.err == f"{second[:7]} is tagged golden\n{first[:7]} is not tagged golden any more\n"
    assert shell("rev-parse", "golden").lines == [second]


def test_the_name_of_another_is_a_conflict(shell: Shell, vision: Vision) -> None:
    shell.fails(
        4,
        f"error: 'warmup' is the name of experiment {vision.warmup.short}\n"
        "hint: take another word, or force it to be moved here\n",
        "tag",
        "baseline",
        "warmup",
    )
    assert shell("tag", "baseline", "--name", "warmup").code == 4
    assert shell("tag", "baseline", "-f", "--name", "warmup").code == 0
    assert shell("rev-parse", "warmup").lines == [vision.baseline.id]


@pytest.mark.parametrize("word", ["abcd", "0123456", "latest", "a~b", "a@b", "a:b", "a/b", ""])
def test_a_word_that_looks_like_something_else_is_refused(shell: Shell, vision: Vision, word: str) -> None:
    assert shell("tag", "baseline", "--", word).code == 2
    assert shell("tag").code == 1


def test_a_tag_that_init_gave_to_several_stays_theirs(shell: Shell, project: SampleProject) -> None:
    for name in ("one", "two"):
        project.begin({}, name=name, tags=("sweep",)).end("finished")
    session = project.begin({}, name="three")
    session.end("finished")
    assert shell("tag", "-f", "three", "sweep").code == 4
    assert len(shell("ls", "--json", "-f", "tag = sweep").json) == 2


def test_all_tags_are_listed(shell: Shell, vision: Vision) -> None:
    assert (shell("tag").err, shell("tag").code) == ("no tags yet\n", 1)
    shell("tag", "baseline@best", "golden")
    shell("tag", "warmup", "early")
    result = shell("tag")
    assert result.lines == [
        f"early   {vision.warmup.short}  experiment warmup",
        f"golden  {vision.baseline.ids[1][:7]}  step 1 of {vision.baseline.short} baseline",
    ]
    assert shell("tag", "--json").json == [
        {"tag": "early", "id": vision.warmup.id, "experiment": vision.warmup.id, "name": "warmup"},
        {"tag": "golden", "id": vision.baseline.ids[1], "experiment": vision.baseline.id, "name": "baseline"},
    ]


def test_tags_are_shown_where_their_commits_are(shell: Shell, vision: Vision) -> None:
    shell("tag", "baseline@best", "golden", "--note", "looks good")
    shell("tag", "baseline", "reference", "--note", "the one")
    best = vision.baseline.ids[1]
    assert shell("log", "baseline").lines[5].endswith("  best  golden")
    assert "tags: reference" in shell("log", "baseline").lines
    assert ["tags", "golden"] in shell("show", best).rows
    assert ["note", "looks", "good"] in shell("show", best).rows
    assert ["tags", "reference"] in shell("show", "baseline").rows
    assert ["note", "the", "one"] in shell("show", "baseline").rows
    assert shell("show", best, "--json").json["tags"] == ["golden"]
    assert shell("show", best, "--json").json["note"] == "looks good"
    assert [one["tags"] for one in shell("log", "baseline", "--json").json] == [[], ["golden"], []]
    rows = shell("ls").rows
    assert rows[0][4] == "TAGS"
    assert "reference" in rows[-1]
    assert shell("ls", "--json").json[1]["note"] == "the one"


def test_a_table_without_room_has_no_tags(shell: Shell, vision: Vision) -> None:
    shell("tag", "baseline", "reference")
    shell.widen(60)
    result = shell("ls")
    assert "TAGS" not in result.lines[0]
    assert "tags" in result.err


def test_what_is_to_change_needs_a_revision(shell: Shell, vision: Vision) -> None:
    assert shell("tag", "--name", "x").code == 2
    assert shell("tag", "baseline:train.py", "x").code == 2
    assert shell("tag", "nothing", "x").code == 3


def test_what_a_terminal_would_obey_is_not_printed(shell: Shell, vision: Vision) -> None:
    assert shell("tag", "baseline", "--note", "\x1b[31mred").code == 0
    assert shell("tag", "baseline").lines[-1] == "note  ·[31mred"
    assert "·[31mred" in shell("show", "baseline").out
