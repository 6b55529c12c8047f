from __future__ import annotations

import io

from rich.console import Console

from histotune.report.trials import trials_table
from tests.report.made_up import made_trials


def test_every_trial_has_a_line_and_the_chosen_one_says_so() -> None:
    stream = io.StringIO()
    trials = made_trials().head(18)
    Console(file=stream, width=120).print(trials_table(trials))
    text = stream.getvalue()
    assert text.count("pooled") == text.count("stage4") == 9
    chosen = next(line for line in text.splitlines() if "chosen" in line)
    assert "0.01" in chosen
    assert "0.480" in chosen
    assert text.count("not converged") == 2
