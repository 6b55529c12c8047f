"""The public verbs: their examples run on rendered tiles, and the command line is a layer over them."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import histotune as ht
from histotune.cli import main
from histotune.statistics.predictions import Predictions
from tests.conftest import write_breakhis, write_pcam

ROOT = Path(ht.__file__).parent


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a small BreakHis and a small PatchCamelyon, and user folders of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
    write_breakhis(tmp_path)
    write_pcam(tmp_path / "PCAM")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def verb_of(name: str) -> object:
    return getattr(import_module(f"histotune.{ht.VERBS[name]}"), name)


def run_examples(thing: object, name: str) -> None:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    found = [test for test in finder.find(thing, name) if test.examples]
    assert found, f"{name} has no example"
    for test in found:
        assert runner.run(test).failed == 0


@pytest.mark.parametrize("name", ht.VERBS)
def test_the_example_of_every_verb_runs(name: str, data: Path) -> None:
    run_examples(verb_of(name), name)


def test_the_example_of_the_package_runs(data: Path) -> None:
    run_examples(ht, "histotune")


@pytest.mark.parametrize("name", ht.VERBS)
def test_a_verb_has_at_most_twelve_arguments_and_all_of_them_are_explained(name: str) -> None:
    verb = verb_of(name)
    parameters = inspect.signature(verb).parameters
    assert len(parameters) <= 12
    text = inspect.getdoc(verb) or ""
    for parameter in parameters:
        assert f"    {parameter}: " in text, parameter


def options_of(command: str) -> dict[str, object]:
    """Return the names and defaults of a command of the root."""
    return {name: one.default for name, one in inspect.signature(getattr(main, command)).parameters.items()}


@pytest.mark.parametrize(
    "name", ["run", "finetune", "embed", "sweep", "evaluate", "predict", "doctor", "transfer", "matrix"]
)
def test_a_verb_has_the_names_and_defaults_of_the_command_line(name: str) -> None:
    typed = options_of(name)
    own = {"set": "settings", "watch": None, "tiles": "dataset", "head": "head"}
    for parameter, one in inspect.signature(verb_of(name)).parameters.items():
        option = own.get(parameter, parameter)
        if option is None or one.default is inspect.Parameter.empty:
            continue
        assert option in typed, f"{name} takes {parameter}, which the command does not"
        assert typed[option] == one.default, f"{name}: {parameter}"


def test_the_stub_names_what_the_package_gives() -> None:
    tree = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    named = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named == {*ht.VERBS, *ht.RECORDS}


def test_a_verb_that_is_a_room_too_can_be_called_after_the_room_was_imported(data: Path) -> None:
    import histotune.audit
    import histotune.report
    import histotune.transfer  # noqa: F401

    tiles = ht.read("breakhis", "BreaKHis_v1")
    assert ht.audit(tiles, quick=True).verdict != "error"
    with pytest.raises(ht.UserError, match="no finished run"):
        ht.report(data)
    with pytest.raises(ht.UserError, match="held-out scores"):
        ht.transfer(data, "pcam", "PCAM")


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, histotune; print({'numpy', 'torch', 'polars', 'pydantic', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'finetunes'"):
        ht.finetunes  # noqa: B018


def test_a_field_that_does_not_exist_is_named_with_the_closest(data: Path) -> None:
    tiles = ht.read("breakhis", "BreaKHis_v1")
    with pytest.raises(ht.UserError, match=r"sweep\.folds"):
        ht.embed(tiles, "colour-histogram", set={"sweep.fold": 3})


def test_tiles_made_in_memory_are_not_audited_as_the_files_of_this_folder(data: Path) -> None:
    from dataclasses import replace

    tiles = replace(ht.read("breakhis", "BreaKHis_v1"), read_from=None)
    with pytest.raises(ht.UserError, match="made in memory"):
        ht.audit(tiles, quick=True)


def test_an_unknown_cluster_is_one_message() -> None:
    predictions = Predictions.__new__(Predictions)  # is not looked at
    with pytest.raises(ht.UserError, match="unknown cluster"):
        ht.score(predictions, cluster="groups")


def test_tiles_keep_how_they_were_read(data: Path) -> None:
    tiles = ht.read("breakhis", "BreaKHis_v1", on_bad_image="skip")
    assert tiles.read_from is not None
    assert tiles.read_from.on_bad_image == "skip"
    assert ht.embed(tiles, "colour-histogram").setup.on_bad_image == "skip"


def test_embedded_tiles_are_swept_as_named_ones_are(data: Path) -> None:
    tiles = ht.read("breakhis", "BreaKHis_v1")
    few = {"sweep.folds": 3}
    x = ht.embed(tiles, "colour-histogram")
    one = ht.sweep(x, train_magnification="100X", out="one", set=few)
    two = ht.sweep("breakhis", "colour-histogram", "BreaKHis_v1", train_magnification="100X", out="two", set=few)
    assert one.head.head.head_id == two.head.head.head_id
    again = ht.evaluate("one", tiles)
    assert repr(again.finding) == repr(
        ht.evaluate(one.head, "breakhis", "BreaKHis_v1").finding
    )  # NaN differs from itself


def test_a_notebook_shows_results_as_their_tables(data: Path) -> None:
    tiles = ht.read("breakhis", "BreaKHis_v1")
    few = {"sweep.folds": 3, "evaluation.outer_folds": 3, "evaluation.floors": []}
    x = ht.embed(tiles, "colour-histogram")
    run = ht.run("breakhis", "BreaKHis_v1", backbone="colour-histogram", out="run", set=few)
    found = ht.sweep(x, train_magnification="100X", out="head", set={"sweep.folds": 3})
    shown = {
        "72 tiles of 12 groups": tiles,
        "with colour-histogram": x,
        "log-loss, out of fold": found,
        "breakhis 100X": ht.evaluate(found.head, tiles),
        "breakhis": run,
        "12 groups": ht.audit(tiles, quick=True),
        "looked at": ht.doctor(),
    }
    for words, result in shown.items():
        html = result._repr_html_()
        assert html.startswith('<div class="scroll"')
        assert words.lower() in html.lower(), words
