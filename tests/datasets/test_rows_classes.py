"""Class names: the same order whatever the order of the rows, the positive class of two last."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.rows import order_classes
from histotune.tools.errors import UserError


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("tumor", "normal"), ("normal", "tumor")),
        (("Cancer", "healthy"), ("healthy", "Cancer")),
        (("malignant", "benign"), ("benign", "malignant")),
        (("positive", "negative"), ("negative", "positive")),
        (("1", "0"), ("0", "1")),
        (("false", "true"), ("false", "true")),
        (("b", "a"), ("a", "b")),
        (("tumor", "cancer"), ("cancer", "tumor")),
        (("10", "9", "b", "a"), ("9", "10", "a", "b")),
        (("0", "00", "000"), ("0", "00", "000")),
        (("only",), ("only",)),
        ((), ()),
    ],
)
def test_known_names_decide(labels: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert order_classes(labels, None).names == names


@given(st.lists(st.text("abc01", min_size=1, max_size=3), max_size=8), st.randoms())
@settings(max_examples=50)
def test_the_order_of_rows_changes_nothing(labels: list[str], random: object) -> None:
    names = order_classes(labels, None).names
    random.shuffle(labels)  # type: ignore[attr-defined]
    assert order_classes(labels, None).names == names
    assert sorted(names) == sorted(set(labels))


def test_a_positive_class_is_one_of_two() -> None:
    assert order_classes(["a", "b"], "a").names == ("b", "a")
    with pytest.raises(UserError, match="is one of two, and there are 3"):
        order_classes(["a", "b", "c"], "a")
    with pytest.raises(UserError, match="no tile has the label"):
        order_classes([], "a")
