from __future__ import annotations

import io
import sys
import time

import pytest

from histotune.tools.progress import StageTime, Stopwatch, track, track_bytes


class Terminal(io.StringIO):
    """A standard error that a person watches."""

    def isatty(self) -> bool:
        return True


def test_nothing_is_printed_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(5), "embedding")) == list(range(5))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_bar_is_drawn_on_standard_error_for_a_person(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(track([1, 2, 3], "embedding tiles")) == [1, 2, 3]
    assert "embedding tiles" in terminal.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_items_of_unknown_number_pass_unchanged(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(track((number**2 for number in range(4)), "squares")) == [0, 1, 4, 9]


def test_items_are_drawn_one_at_a_time() -> None:
    drawn = []

    def source() -> object:
        for number in range(3):
            drawn.append(number)
            yield number

    items = track(source(), "lazy")  # type: ignore[arg-type]
    next(items)
    assert drawn == [0]


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_an_error_of_the_source_reaches_the_caller(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    monkeypatch.setattr(sys, "stderr", stream())

    def source() -> object:
        yield 1
        raise RuntimeError("truncated PNG")

    with pytest.raises(RuntimeError, match="truncated"):
        list(track(source(), "reading", total=2))  # type: ignore[arg-type]


def test_stages_are_kept_in_order_and_add_up() -> None:
    watch = Stopwatch()
    with watch.stage("embed"):
        time.sleep(0.02)
    with watch.stage("sweep"):
        pass
    assert [stage.name for stage in watch.stages] == ["embed", "sweep"]
    assert 0.02 <= watch.stages[0].seconds_s < 1
    assert watch.total_s == pytest.approx(sum(stage.seconds_s for stage in watch.stages))


def test_a_stage_that_fails_is_not_recorded() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="stop"), watch.stage("embed"):
        raise ValueError("stop")
    assert watch.stages == []


def test_two_stopwatches_share_nothing() -> None:
    first, second = Stopwatch(), Stopwatch()
    with first.stage("embed"):
        pass
    assert second.stages == []
    assert Stopwatch([StageTime("embed", 1.5), StageTime("sweep", 0.5)]).total_s == 2.0


def test_a_bar_of_bytes_is_drawn_for_a_person_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with track_bytes("downloading a.gz", 2_000_000, 500_000) as advance:
        advance(1_000)
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with track_bytes("downloading a.gz", 2_000_000, 500_000) as advance:
        advance(1_500_000)
    assert "downloading a.gz" in terminal.getvalue()
    assert "2.0/2.0 MB" in terminal.getvalue()


def test_bytes_without_a_total_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with track_bytes("downloading", None) as advance:
        advance(3_000_000)
    assert "3.0" in terminal.getvalue()


def test_a_notebook_watches_as_a_terminal_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from histotune.tools.progress import is_watched

    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not is_watched()
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert is_watched()
