"""Mean ranks against scipy and the published critical values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from histotune.statistics.mean_ranks import rank_arms
from histotune.tools.errors import UserError

AUC = np.random.default_rng(3).integers(60, 99, size=(14, 4)) / 100 + [0.0, 0.04, 0.0, 0.08]
AUC[4] = AUC[5, [0, 0, 2, 2]]  # ties
NAMES = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]
SETS = [f"set {number}" for number in range(14)]


@pytest.mark.parametrize(("n_arms", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_values_are_the_published_ones(n_arms: int, q: float) -> None:
    """Table 5a of Demsar, JMLR 7, 2006, at 0.05; his example of four arms on 14 data sets has 1.25."""
    values = np.random.default_rng(0).random((14, n_arms))
    found = rank_arms(values, SETS, [f"arm {place}" for place in range(n_arms)])
    assert found.critical_difference == pytest.approx(q * np.sqrt(n_arms * (n_arms + 1) / (6 * 14)), abs=6e-4)
    assert n_arms != 4 or round(found.critical_difference, 2) == 1.25


def test_mean_ranks_and_cliques_are_those_of_a_plain_loop() -> None:
    found = rank_arms(AUC, SETS, NAMES)
    plain = dict.fromkeys(NAMES, 0.0)
    for row in AUC:
        for a, name in enumerate(NAMES):
            plain[name] += (1 + (row > row[a]).sum() + ((row == row[a]).sum() - 1) / 2) / len(AUC)
    assert dict(zip(found.names, found.mean_ranks, strict=True)) == pytest.approx(plain)
    assert list(found.mean_ranks) == sorted(found.mean_ranks)
    joined = {(a, b) for first, last in found.cliques for a in range(first, last + 1) for b in range(a + 1, last + 1)}
    near = {(a, b) for a in range(4) for b in range(a + 1, 4)
            if found.mean_ranks[b] - found.mean_ranks[a] < found.critical_difference}  # fmt: skip
    assert joined == near


def test_two_arms_and_wilcoxon_as_scipy_says() -> None:
    found = rank_arms(AUC, SETS, NAMES)
    pair = next(pair for pair in found.pairs if (pair.first, pair.second) == ("C4.5", "C4.5+m+cf"))
    assert pair.p_value == pytest.approx(stats.wilcoxon(AUC[:, 0], AUC[:, 3]).pvalue)
    assert pair.p_adjusted >= pair.p_value
    chi2, _ = stats.friedmanchisquare(*AUC.T)
    f = 13 * chi2 / (14 * 3 - chi2)
    assert found.p_value == pytest.approx(stats.f.sf(f, 3, 39))


@settings(max_examples=5)
@given(st.integers(0, 1000), st.integers(2, 6), st.integers(5, 12))
def test_relabelling_turning_and_rescaling_change_nothing(seed: int, n_arms: int, n_sets: int) -> None:
    rng = np.random.default_rng(seed)
    value_SA = rng.integers(0, 6, size=(n_sets, n_arms)) / 5.0
    names, sets = [f"arm {a}" for a in range(n_arms)], [str(s) for s in range(n_sets)]
    found = rank_arms(value_SA, sets, names)
    assert sum(found.mean_ranks) == pytest.approx(n_arms * (n_arms + 1) / 2)
    order = rng.permutation(n_arms)
    again = rank_arms(value_SA[:, order], sets, [names[place] for place in order])
    assert dict(zip(again.names, again.mean_ranks, strict=True)) == pytest.approx(
        dict(zip(found.names, found.mean_ranks, strict=True))
    )
    turned = rank_arms(-np.exp(value_SA), sets, names, higher_is_better=False)
    assert turned.mean_ranks == pytest.approx(found.mean_ranks)
    assert turned.p_value == pytest.approx(found.p_value, nan_ok=True)


def test_all_ties_and_one_order() -> None:
    same = rank_arms(np.ones((5, 3)), list("abcde"), list("xyz"))
    assert np.isnan(same.p_value) and same.cliques == ((0, 2),)
    assert all(pair.p_adjusted == 1.0 for pair in same.pairs)
    clear = rank_arms(np.tile([0.9, 0.5], (12, 1)), [str(s) for s in range(12)], ["good", "bad"])
    assert clear.cliques == () and clear.p_value == pytest.approx(2.0**-11)


def test_too_little_is_refused() -> None:
    with pytest.raises(UserError, match="5 or more"):
        rank_arms(AUC[:4], SETS[:4], NAMES)
    with pytest.raises(UserError, match="every data set"):
        rank_arms(np.where(AUC.max() == AUC, np.nan, AUC), SETS, NAMES)
