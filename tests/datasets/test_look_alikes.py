"""Names that may be one: every way to write a name that people and spreadsheets have is found; other names are not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from histotune.datasets.look_alikes import alike_groups, closest_alike, look, one_of

PLAIN = st.from_regex(r"[A-Za-z]{2,6}[1-9][0-9]{0,4}", fullmatch=True)
NUMBER = st.integers(1, 99_999).map(str)
WIDE = {ord(mark): chr(ord(mark) + 0xFEE0) for mark in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pat1", "pat1"),
        ("Pat1", "PAT1"),
        ("Pat1", "Pat 1"),
        ("Pat1", "Pat_1"),
        ("Pat1", "Pat-1"),
        ("Pat1", "Pat1."),
        ("Pat1", "Pat001"),
        ("Pat1", "Ｐａｔ１"),
        ("Pat1", "Pat\u200b1"),
        ("Pat1", "(Pat1)"),
        ("Pat 1", "Pat  1"),
        ("A-B 1", "a\u2013b 1"),
        ("14-22549", "14\u201122549"),
        ("14-22549AB", "14-22549-ab"),
        ("T1", "\u04221"),  # a Cyrillic letter
        ("7", "7.0"),
        ("7", "007"),
        ("7", "7,0"),
        ("7", "７"),
        ("7", "#7"),
        ("7", "'7"),
        ("7", "7.000"),
        ("1234", "1,234"),
        ("1234", "1.234"),
        ("1234", "1'234"),
        ("1234", "1 234"),
        ("1234", "1\u202f234"),
        ("1234567", "1,234,567"),
        ("P1234", "P1,234"),
        ("123456", "1.23456E+05"),
        ("123456789", "1.23E+08"),
        ("300000", "3E+05"),
        ("2021-03-04", "04.03.2021"),
        ("2021-03-04", "3/4/2021"),
        ("2021-03-04", "4/3/2021"),
        ("2021-03-04", "4-Mar-21"),
        ("2021-03-04", "4 March 2021"),
        ("2021-03-04", "Mar 4, 2021"),
        ("2021-03-04", "2021-03-04 00:00:00"),
        ("2021-03-04", "2021-03-04T00:00:00Z"),
        ("2021-03-04", "20210304"),
        ("2021-03-04", "44259"),  # the days that Excel counts
        ("1-2", "2-Jan"),
        ("2-1", "Jan-02"),
        ("1/2", "01-Feb"),
        ("3-21", "Mar-21"),
        ("14-3", "14. M\u00e4rz"),
    ],
)
def test_two_ways_to_write_one_name(one: str, other: str) -> None:
    assert alike_groups([one, other]) == [tuple(sorted((one, other)))]
    assert alike_groups([other, one, "another"]) == [tuple(sorted((one, other)))]


@pytest.mark.parametrize(
    "names",
    [
        ("1", "2", "10", "100", "1000", "10000"),
        ("1-2", "2-1", "12", "21", "1-1"),
        ("1.1", "1.10", "1.11"),
        ("2.5", "25", "2.05"),
        ("HER2+", "HER2-", "HER2"),
        ("+", "-"),
        ("-1", "1", "0"),
        ("1+", "2+", "3+"),
        ("3+4", "4+3"),
        ("<5", ">5"),
        ("14-22549A", "14-22549B", "14-22549"),
        ("1-234", "1234"),
        ("2021-03-04", "2021-04-03"),
        ("3/4/2021", "4/3/2021"),
        ("2e5", "200000"),
        ("T", "TT", "T1", "T2"),
        ("SOB_B_A-14-22549AB", "SOB_B_A-14-22549CD"),
        ("TCGA-AR-A1AR", "TCGA-AR-A1AQ", "TCGA-AO-A0J2"),
        ("camelyon16_train_normal_033", "camelyon16_train_tumor_033", "camelyon16_test_033"),
        ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"),
        ("a", "\u00e4", "\u00e5"),
        ("\u75c5\u4eba1", "\u75c5\u4eba2"),
    ],
)
def test_different_names_stay_different(names: tuple[str, ...]) -> None:
    assert alike_groups(names) == []


@given(st.sets(st.integers(0, 10**9)), st.sampled_from(["", "P", "pat-", "14-", "S_"]))
@settings(max_examples=100)
def test_no_two_numbers_look_alike(numbers: set[int], prefix: str) -> None:
    assert alike_groups([f"{prefix}{number}" for number in numbers]) == []


@given(st.sets(PLAIN, max_size=20))
def test_plain_names_look_alike_where_case_or_zeros_differ_only(names: set[str]) -> None:
    groups = alike_groups(names)
    assert all(len({name.casefold() for name in same}) == 1 for same in groups)
    assert sum(map(len, groups)) + len({name.casefold() for name in names}) == len(names) + len(groups)


@given(
    PLAIN | NUMBER,
    st.sampled_from(
        [
            str.upper,
            lambda name: name.translate(WIDE),
            lambda name: f"{name}.",
            lambda name: f"{name} .",
            lambda name: f"'{name}",
            lambda name: f"\u200b{name}\u2060",
            lambda name: unicodedata.normalize("NFD", name),
            lambda name: name[:1].lower() + name[1:],
            lambda name: f"00{name}" if name.isdecimal() else name,
            lambda name: f"{name}.0" if name.isdecimal() else name,
            lambda name: f"{int(name):,}" if name.isdecimal() else name,
        ]
    ),
)
@settings(max_examples=200)
def test_every_respelling_is_found(name: str, respell: object) -> None:
    other = respell(name)  # type: ignore[operator]
    assume(other != name)
    assert alike_groups([name, other, "and another one"]) == [tuple(sorted((name, other)))]
    assert closest_alike(other, [name, "and another one"]) == name


@given(st.lists(st.text(max_size=8), max_size=12), st.randoms())
@settings(max_examples=300)
def test_any_text_gets_an_answer_that_no_order_changes(names: list[str], random: object) -> None:
    groups = alike_groups(names)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert alike_groups(names) == groups
    flat = [name for same in groups for name in same]
    assert len(flat) == len(set(flat)) and set(flat) <= set(names)
    for same in groups:
        assert one_of(same) == one_of(same[::-1]) and one_of(same) in same


@given(st.text(max_size=12), st.text(st.characters(codec="ascii"), max_size=12))
@settings(max_examples=300)
def test_a_look_is_never_empty_and_case_changes_none(name: str, plain: str) -> None:
    assert look(name) or not name
    if look(plain) != plain:  # of marks alone nothing is left, and they stay as they are
        assert look(plain.upper()) == look(plain.lower())


def test_the_plainest_name_stands_for_all() -> None:
    assert one_of(["007", "7.0", "7"]) == "7"
    assert one_of(["pat1", "Pat1"]) == "Pat1"
    assert one_of(["１２", "12"]) == "12"


def test_a_name_that_two_look_like_stands_for_none() -> None:
    assert closest_alike("PAT", ["Pat", "pat"]) is None
    assert closest_alike("pat", ["Pat", "pat"]) == "pat"
