"""Sizes, times and values as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.text import (
    align_numbers,
    columns,
    cut,
    format_age,
    format_bytes,
    format_float,
    format_seconds,
    format_value,
    plural,
    printable,
    printable_message,
    take,
)

printable_text = st.text().map(printable)
HOUR = 3600
DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1_000, "1.0 KB"),
        (9_949, "9.9 KB"),
        (9_950, "10 KB"),
        (91_400_000, "91 MB"),
        (999_499, "999 KB"),
        (999_500, "1.0 MB"),
        (4_100_000_000, "4.1 GB"),
        (10**12, "1.0 TB"),
        (10**18, "1000 PB"),
    ],
)
def test_a_size_has_two_or_three_digits(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0141, "14 ms"),
        (0.094, "94 ms"),
        (0.1, "0.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (98 * 60, "98 min"),
        (2.5 * HOUR, "2.5 h"),
        (47 * HOUR, "47.0 h"),
        (3 * DAY, "3 days"),
    ],
)
def test_a_duration_has_the_unit_that_fits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-HOUR, "just now"),
        (4.9, "just now"),
        (5, "5 s ago"),
        (89, "89 s ago"),
        (91, "2 min ago"),
        (89 * 60, "89 min ago"),
        (91 * 60, "2 hours ago"),
        (23 * HOUR, "23 hours ago"),
        (24 * HOUR, "yesterday"),
        (35 * HOUR, "yesterday"),
        (37 * HOUR, "2 days ago"),
        (13 * DAY, "13 days ago"),
        (14 * DAY, "2 weeks ago"),
        (69 * DAY, "10 weeks ago"),
        (70 * DAY, "2 months ago"),
        (699 * DAY, "23 months ago"),
        (700 * DAY, "2 years ago"),
        (3653 * DAY, "10 years ago"),
    ],
)
def test_an_age_is_told_as_people_do(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


@given(st.floats(min_value=5, max_value=1e11))
def test_an_age_is_never_one_of_a_unit(seconds: float) -> None:
    assert not format_age(seconds).startswith(("0 ", "1 "))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.18234567, "0.1823"),
        (0.312, "0.312"),
        (97.0, "97"),
        (-0.0, "0"),
        (1e-05, "1e-05"),
        (123456.0, "123456"),
        (1234567.0, "1.235e+06"),
        (123456.7, "1.235e+05"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (5e-324, "4.941e-324"),
    ],
)
def test_a_float_has_four_digits_and_no_needless_ones(value: float, text: str) -> None:
    assert format_float(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (1 / 3, "0.3333"),
        ("adamw", "adamw"),
        ("", ""),
        ([1, 0.5, "x", None], "[1, 0.5, x, none]"),
        ({"kind": "cosine", "warmup": {"steps": 5}}, "{kind: cosine, warmup: …"),
        ("x" * 24, "x" * 24),
        ("x" * 25, "x" * 23 + "…"),
        ("two\nlines\x1b[31m", "two·lines·[31m"),
        ("余" * 13, "余" * 11 + "…"),
        (10**30, "10000000000000000000000…"),
    ],
)
def test_a_value_is_shown_in_one_short_line(value: object, text: str) -> None:
    assert format_value(value) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
    st.integers(1, 40),
)
def test_every_value_fits_its_width_and_is_printable(value: object, width: int) -> None:
    text = format_value(value, width)
    assert columns(text) <= width
    assert text.isprintable()


@pytest.mark.parametrize(
    ("cells", "aligned"),
    [
        ([], []),
        (["0.5", "12.25", "3"], [" 0.5", "12.25", " 3"]),
        (["-1", "10", ""], ["-1", "10", ""]),
        (["1e-05", "0.1"], ["1e-05", "0.1"]),
        (["1.5", "10", "-2.25", "none", "1e-05"], [" 1.5", "10", "-2.25", "none", " 1e-05"]),
        (["adamw", "100", "7"], ["adamw", "100", "  7"]),
        (["nan", "inf", "12"], ["nan", "inf", "12"]),
        (["1.5 GB", "10 GB"], ["1.5 GB", "10 GB"]),
    ],
)
def test_numbers_are_aligned_at_their_points(cells: list[str], aligned: list[str]) -> None:
    assert align_numbers(cells) == aligned


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 余弦", "größe 余弦"),
        ("\x1b[2J", "·[2J"),
        ("a\tb\nc", "a·b·c"),
        ("\x9bcsi", "·csi"),
        ("\u202ertl", "·rtl"),
        ("\udcff", "·"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_a_dot(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("all is well", "all is well"),
        ("no file a\nb", "no file a·b"),
        ("no file a\nb\nhint: look\x1b[1m for it", "no file a·b\nhint: look·[1m for it"),
        ("no file a\nhint: b\nhint: look for it", "no file a·hint: b\nhint: look for it"),
    ],
)
def test_a_message_is_a_line_and_its_hint_another(message: str, shown: str) -> None:
    assert printable_message(message) == shown


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("größe", 5), ("余弦", 4), ("e\u0301", 1), ("ｱ", 1), ("Ａ", 2), ("🚀", 2)]
)
def test_columns_are_those_of_a_terminal(text: str, width: int) -> None:
    assert columns(text) == width


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("abcd", 1, "…"),
        ("余弦余", 5, "余弦…"),
        ("余弦余", 4, "余…"),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
    ],
)
def test_what_is_cut_ends_in_an_ellipsis(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown


@given(printable_text, st.integers(1, 30))
def test_a_cut_text_fits_and_begins_as_the_whole_does(text: str, width: int) -> None:
    shown = cut(text, width)
    assert columns(shown) <= width
    assert shown == text or text.startswith(shown.removesuffix("…"))


@given(printable_text, st.integers(0, 30))
def test_as_much_as_fits_is_taken(text: str, width: int) -> None:
    taken = take(text, width)
    assert text.startswith(taken)
    assert columns(taken) <= width
    assert taken == text or columns(text[: len(taken) + 1]) > width


@pytest.mark.parametrize(("count", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (20_000, "20,000 files")])
def test_a_count_agrees_with_its_noun(count: int, text: str) -> None:
    assert plural(count, "file") == text
