"""The golden record's own rules: what is masked, what is decoded, and that every kind of difference is found."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from golden import command, edits, masks, play
from golden.about import About, about_this, save_about, what_differs
from golden.allowances import Allowance, judge, read_allowances
from golden.decode import decode
from golden.differences import Difference, compare_records
from golden.scene import Outcome, Scene, step
from golden.scenes import SCENES
from golden.scenes_words import below

MASKS = masks.Masks({"/home/me/tree/src": "source"})


def read(path: Path) -> dict[str, object]:
    ending, text = decode(path)
    assert ending == ".json"
    loaded: dict[str, object] = json.loads(text)
    return loaded


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Return a record of one command that wrote JSON, a CSV table, a page and an array."""
    folder = tmp_path / "old"
    place = folder / "scene/step"
    (place / "files/run").mkdir(parents=True)
    (place / "outcome.json").write_text('{"exit code": 0}\n')
    (place / "stdout.txt").write_text("first\nsecond\nthird\n")
    (place / "stderr.txt").write_text("")
    scores = {"rows": [{"name": "auroc", "value": 0.5}, {"name": "accuracy", "value": 1}]}
    (place / "files/run/scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    (place / "files/run/table.csv").write_text("path,probability\na.png,0.25\nb.png,0.75\n")
    np.save(tmp_path / "rows.npy", np.arange(100.0))
    (place / "files/run/rows.npy.json").write_text(decode(tmp_path / "rows.npy")[1])
    return folder


def changed(record: Path, **texts: str) -> list[str]:
    """Return the differences to a copy of a record in which files hold other texts; empty removes a file."""
    new = record.with_name("new")
    shutil.copytree(record, new)
    for name, text in texts.items():
        path = new / "scene/step" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text) if text else path.unlink()
    return [str(one) for one in compare_records(record, new)]


def test_equal_records_do_not_differ(record: Path) -> None:
    assert changed(record) == []


def test_a_changed_number_is_told_by_its_key(record: Path) -> None:
    scores = {"rows": [{"name": "auroc", "value": 0.5000000001}, {"name": "accuracy", "value": 1.0}]}
    assert changed(record, files__run__scores_DOT_json=json.dumps(scores, indent=2) + "\n") == [
        "scene/step / files/run/scores.json / rows[0].value: 0.5 -> 0.5000000001",
        "scene/step / files/run/scores.json / rows[1].value: 1 -> 1.0",
    ]


def test_keys_that_come_go_or_change_places_are_told(record: Path) -> None:
    scores = {"rows": [{"value": 0.5, "name": "auroc"}], "more": None}
    assert changed(record, files__run__scores_DOT_json=json.dumps(scores, indent=2) + "\n") == [
        "scene/step / files/run/scores.json / rows[]: 2 entries -> 1 entries",
        "scene/step / files/run/scores.json / rows[0]: name value -> value name",
        "scene/step / files/run/scores.json / more: (absent) -> null",
    ]


def test_the_same_values_written_in_another_way_are_told(record: Path) -> None:
    text = (record / "scene/step/files/run/scores.json").read_text()
    told = changed(record, files__run__scores_DOT_json=json.dumps(json.loads(text)) + "\n")
    assert len(told) == 12 and told[0].startswith("scene/step / files/run/scores.json / line 1: { -> ")


def test_a_changed_cell_is_told_by_row_and_column(record: Path) -> None:
    told = changed(record, files__run__table_DOT_csv="path,probability\na.png,0.26\nb.png,0.75\nc.png,1\n")
    assert told == ["scene/step / files/run/table.csv / rows: 3 -> 4",
                    "scene/step / files/run/table.csv / row 1, probability: 0.25 -> 0.26"]  # fmt: skip


def test_changed_added_and_removed_lines_are_told(record: Path) -> None:
    assert changed(record, stdout_DOT_txt="first\n2nd\nthird\nfourth\n") == [
        "scene/step / stdout.txt / line 2: second -> 2nd", "scene/step / stdout.txt / line 4: (absent) -> fourth",
    ]  # fmt: skip


def test_a_line_feed_too_many_is_told(record: Path) -> None:
    assert changed(record, stdout_DOT_txt="first\nsecond\nthird\n\n") == [
        "scene/step / stdout.txt / line 5: (absent) -> "
    ]


def test_missing_and_extra_files_are_told(record: Path) -> None:
    assert changed(record, files__run__table_DOT_csv="", files__run__more_DOT_json="{}") == [
        "scene/step / files/run/more.json: (absent) -> (a file)",
        "scene/step / files/run/table.csv: (a file) -> (absent)",
    ]


def test_a_changed_exit_code_is_told(record: Path) -> None:
    assert changed(record, outcome_DOT_json='{"exit code": null}\n') == [
        "scene/step / outcome.json / exit code: 0 -> null"
    ]


def test_a_changed_value_of_an_array_is_told(record: Path, tmp_path: Path) -> None:
    array = np.arange(100.0)
    array[7] = np.nextafter(array[7], 8)  # the sum stays, the bytes do not
    np.save(tmp_path / "rows.npy", array)
    (line,) = changed(record, files__run__rows_DOT_npy_DOT_json=decode(tmp_path / "rows.npy")[1])
    assert line.startswith("scene/step / files/run/rows.npy.json / sha256: ")


def test_long_values_are_shown_around_their_first_difference(record: Path) -> None:
    line = Difference("a/b", "stdout.txt", "line 1", "x" * 500 + "old" + "y" * 500, "x" * 500 + "new" + "y" * 500)
    assert len(str(line)) < 300 and "xold" in str(line) and "xnew" in str(line)


def test_only_wanted_commands_are_compared(record: Path) -> None:
    new = record.with_name("new")
    shutil.copytree(record, new)
    (new / "scene/step/stdout.txt").write_text("other\n")
    assert list(compare_records(record, new, ["scene/other"])) == []
    assert len(list(compare_records(record, new, ["scene/step"]))) == 3


def test_an_allowance_passes_what_it_names_and_is_told_when_it_names_nothing() -> None:
    differences = [Difference("a/b", "stdout.txt", "line 1", "old", "new"), Difference("a/c", "x", "", "1", "2")]
    meant = Allowance("the word is better", commands="a/b", files="stdout.txt", old="old", new="new")
    idle = Allowance("was meant once", commands="z/*")
    judged = judge(differences, (meant, idle))
    assert judged.found == (differences[1],) and judged.n_allowed == 1 and judged.unused == (idle,)
    assert judge(differences, (Allowance("n", commands="a/b", new="ne"),)).n_allowed == 0  # a part is not the whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[allowed]]\nfiles = "*"\n', "needs a reason"),
        ('[[allowed]]\nreason = "x"\n', "would pass everything"),
        ('[[allowed]]\nreason = "x"\nfile = "a"\n', "knows no file"),
        ('[allow]\nreason = "x"\n', "takes \\[\\[allowed\\]\\] tables only"),
    ],
)
def test_an_allowance_that_says_too_little_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "allowed.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_allowances(tmp_path / "allowed.toml")


def test_the_committed_allowances_can_be_read() -> None:
    assert all(allowance.reason for allowance in read_allowances())


@pytest.mark.parametrize(
    ("file", "text", "masked"),
    [
        ("a/b/stdout.txt", "saved /tmp/histotune-golden-3/demo/run", "saved <work>/demo/run"),
        ("a/b/stderr.txt", "/home/me/tree/src/histotune/x.py", "<source>/histotune/x.py"),
        ("a/b/stdout.txt", "run 20260314T101112-3f9a0c1d", "run <run id>"),
        ("a/b/stdout.txt", "   12.3 s  read data\n1.2 s x", "<s> s  read data\n1.2 s x"),
        ("a/b/stdout.txt", "done in 1.2 min; all\nundone in 3 s", "done in <duration>; all\nundone in 3 s"),
        ("a/b/stdout.txt", "1.23 seconds of 2026-03-14 tiles", "1.23 seconds of 2026-03-14 tiles"),
        ("a/b/stdout.txt", "used 2026-03-14 10:11", "used <time>"),
        ("a/b/files/report.html", '<tr><th scope="row">total</th><td class="num">2.5</td></tr>',
         '<tr><th scope="row">total</th><td class="num"><s></td></tr>'),
        ("a/b/files/report.html", '<tr><th scope="row">AUROC</th><td class="num">2.5</td></tr>',
         '<tr><th scope="row">AUROC</th><td class="num">2.5</td></tr>'),
        ("demo/demo/files/report.html", '<tr><th scope="row">write synthetic tissue</th><td class="num">6.6</td></tr>',
         '<tr><th scope="row">write synthetic tissue</th><td class="num"><s></td></tr>'),
        ("doctor/deep/stdout.txt", "  fp32             86 GFLOP/s, largest error 1.9e-06   ",
         "  fp32             <speed> GFLOP/s, largest error 1.9e-06<speed>"),
        ("a/b/stdout.txt", "wandb/offline-run-20261130_082518-20261130T082515-0a1b2c3d ok", "wandb/<wandb run> ok"),
        ("a/b/stderr.txt", 'Traceback:\n  File "x.py", line 3, in f\n    g()\n    ^^^\n  File "y.py", line 4\nE: no',
         "Traceback:\n<frames>\nE: no"),
    ],
)  # fmt: skip
def test_masks_take_what_varies_and_no_more(file: str, text: str, masked: str) -> None:
    assert MASKS.text(file, text) == masked


def test_values_are_masked_by_key_and_texts_inside_them_by_line() -> None:
    value = {"stages": [{"name": "embed", "seconds_s": 1.5}], "command": "/home/me/tree/src/x", "n": 3}
    assert MASKS.value("a/b/files/run/provenance.json", value) == {
        "stages": [{"name": "embed", "seconds_s": "<seconds>"}], "command": "<source>/x", "n": 3,
    }  # fmt: skip
    assert MASKS.value("a/b/files/run/scores.json", value)["stages"][0]["seconds_s"] == 1.5


def test_rows_that_depend_on_the_clock_are_left_out_and_the_others_kept() -> None:
    value = {"content": {"rows": [{"path": "/x/histotune/restained/a.png"}, {"path": "/x/a.png"}]}}
    assert MASKS.value("a/b/files/hashes.sqlite", value) == {"content": {"rows": [{"path": "/x/a.png"}]}}


def test_every_mask_has_a_reason() -> None:
    assert all(mask.reason for mask in (*masks.TEXTS, *masks.KEYS, *masks.ROWS, *masks.FILES))


def test_formats_are_decoded_key_by_key(tmp_path: Path) -> None:
    save_file({"weight": np.ones((2, 3), np.float32)}, tmp_path / "a.safetensors", {"b": "2", "a": "1"})
    told = read(tmp_path / "a.safetensors")
    assert told["metadata"] == {"a": "1", "b": "2"}
    assert told["weight"] == {"dtype": "F32", "shape": [2, 3], "values": [1.0] * 6}
    pl.DataFrame({"x": [1.5, None], "y": [[1], [2, 3]]}).write_parquet(tmp_path / "a.parquet")
    table = read(tmp_path / "a.parquet")
    assert table["columns"] == {"x": [1.5, None], "y": [[1], [2, 3]]} and table["n_rows"] == 2
    np.savez(tmp_path / "a.npz", x=np.array([float("nan"), 1.0]))
    assert read(tmp_path / "a.npz") == {"x": {"dtype": "float64", "shape": [2], "values": ["nan", 1.0]}}
    with sqlite3.connect(tmp_path / "a.sqlite") as database:
        database.execute("CREATE TABLE t (name TEXT, data BLOB)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [("b", b"\x01"), ("a", None)])
    database.close()
    rows = read(tmp_path / "a.sqlite")["t"]
    assert isinstance(rows, dict) and {row["name"]: row["data"] for row in rows["rows"]} == {"a": None, "b": "bytes 01"}


def test_pictures_are_told_by_their_pixels_and_not_by_their_bytes(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", compress_level=1)
    Image.fromarray(pixels).save(tmp_path / "b.png", compress_level=9)
    Image.fromarray(255 - pixels).save(tmp_path / "c.png")
    one, same, other = (read(tmp_path / f"{name}.png") for name in "abc")
    assert one == same != other


def test_a_damaged_file_is_told_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"half")
    assert read(tmp_path / "a.npy")["n_bytes"] == 4
    assert decode(tmp_path / "a.npy") != decode_of(tmp_path, b"hals")


def decode_of(folder: Path, data: bytes) -> tuple[str, str]:
    (folder / "a.npy").write_bytes(data)
    return decode(folder / "a.npy")


def test_a_scene_is_played_and_every_file_it_wrote_or_removed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for histotune writes, rewrites, keeps and removes files, and ends with a code of its own."""
    package = tmp_path / "src/histotune"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import os, pathlib, sys\nprint(sys.argv[1:], os.environ['COLUMNS'], os.getcwd())\n"
        "pathlib.Path('made/new.json').parent.mkdir(exist_ok=True)\npathlib.Path('made/new.json').write_text('{}')\n"
        "pathlib.Path('gone.txt').unlink()\nraise SystemExit(3)\n"
    )
    first = step("one", "say 'two words'", edits.text("gone.txt", "x"), code=3)
    scene = Scene("scene", (first, step("never", "say nothing")), (edits.text("kept.txt", "kept"),))
    work = tmp_path / "histotune-golden-0"
    stage = play.Stage(tmp_path / "src", work, tmp_path / "record", MASKS, ("scene/one",))
    report = play.play_all((scene,), stage, jobs=1)
    assert (report.n_commands, report.surprises) == (1, [])
    place = tmp_path / "record/scene/one"
    assert json.loads((place / "outcome.json").read_text()) == {
        "command": "histotune say 'two words'", "environment": {}, "exit code": 3, "removed": ["gone.txt"],
    }  # fmt: skip
    assert (place / "stdout.txt").read_text() == "['say', 'two words'] 120 <work>/scene\n"
    assert [path.name for path in (place / "files").rglob("*") if path.is_file()] == ["new.json"]
    assert not work.joinpath("scene").exists() and not (tmp_path / "record/scene/never").exists()


def test_a_surprising_end_is_reported(tmp_path: Path) -> None:
    (tmp_path / "src/histotune").mkdir(parents=True)
    (tmp_path / "src/histotune/__init__.py").write_text("")
    (tmp_path / "src/histotune/__main__.py").write_text("raise SystemExit(1)\n")
    stage = play.Stage(tmp_path / "src", tmp_path / "work", tmp_path / "record", MASKS)
    report = play.play_all((Scene("scene", (step("one", "x"),)),), stage, jobs=1)
    assert report.surprises == ["scene/one: ended with 1, not 0"]


def test_the_tree_of_commands_is_walked_by_its_help_pages() -> None:
    page = ("╭─ Options ─────╮\n│ --quiet   no  │\n╰───────────────╯\n╭─ Commands ────╮\n│ run    Do it. │\n"
            "│        More.  │\n│ data   Look.  │\n╰───────────────╯\n")  # fmt: skip
    steps = list(below(("cache",), Outcome(0, page, "")))
    assert [one.line for one in steps] == ["cache run --help", "cache data --help"]


def test_scenes_have_names_of_their_own_and_lines_that_a_shell_reads() -> None:
    names = Counter(f"{scene.name}/{one.name}" for scene in SCENES for one in scene.steps)
    assert names.most_common(1)[0][1] == 1
    assert all(shlex.split(one.line) or one.name == "no-words" for scene in SCENES for one in scene.steps)
    assert sum(one.code == 2 for scene in SCENES for one in scene.steps) >= 50


def test_records_of_another_machine_or_of_other_packages_are_not_compared(tmp_path: Path) -> None:
    here = about_this(Path(__file__).parents[1] / "src")
    other = About(**{**vars(here), "processor": "another", "packages": {**here.packages, "numpy": "0.1"}})
    assert list(what_differs(here, here)) == []
    told = list(what_differs(other, here))
    assert len(told) == 2 and "another" in told[0] and "the package numpy: 0.1, here " in told[1]


def test_check_says_what_is_in_the_way_and_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "KEPT", tmp_path / "record")
    assert command.main(["check"]) == command.USELESS
    assert "make one: python scripts/golden record" in capsys.readouterr().err
    here = about_this(Path(__file__).parents[1] / "src")
    save_about(About(**{**vars(here), "processor": "another"}), tmp_path / "record", {})
    assert command.main(["check"]) == command.USELESS
    told = capsys.readouterr()
    assert f"commit {here.commit[:12]}" in told.out and "the processor: another" in told.err
    assert f"python scripts/golden record --at {here.commit[:12]} --out " in told.err


def test_compare_counts_and_ends_with_1(
    record: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = record.with_name("new")
    shutil.copytree(record, new)
    (new / "scene/step/stdout.txt").write_text("a\nb\nc\n")
    for folder in (record, new):
        save_about(about_this(Path(__file__).parents[1] / "src"), folder, {})
    monkeypatch.setattr(command, "read_allowances", lambda: ())
    assert command.main(["compare", str(record), str(record)]) == command.SAME
    assert "0 differences" in capsys.readouterr().out
    assert command.main(["compare", str(record), str(new), "--most", "2"]) == command.DIFFERENT
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 4 and told[2].endswith("1 more (--most 0 tells all)")
    assert told[3] == "3 differences in 1 files of 1 commands"
    monkeypatch.setattr(command, "read_allowances", lambda: (Allowance("x", commands="z/*"),))
    assert command.main(["compare", str(record), str(record)]) == command.DIFFERENT
    assert "UNUSED ALLOWANCE: commands = 'z/*' (x)" in capsys.readouterr().out


def test_a_folder_of_other_files_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    assert command.main(["record", "--out", str(tmp_path)]) == command.USELESS
    assert "something else than a record" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
