"""The list of mutants fits the package; mutants are found, planted, reached and judged as they should be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from scripts.mutants import judge, suite
from scripts.mutants.changes import KINDS, changes_of
from scripts.mutants.choose import choose, shares
from scripts.mutants.judge import Reach, killer_now
from scripts.mutants.locate import ADVICE, find_all
from scripts.mutants.records import Moved, Mutant, MutantList, read_list, write_list
from scripts.mutants.schemata import instrument
from scripts.mutants.source import functions_in, read_package, text_of
from scripts.mutants.suite import Copy, OneTest

MADE_UP = '''\
"""Made up."""

from __future__ import annotations

from dataclasses import dataclass


def boundary(n):
    return n < 3


def negated(n):
    if n:
        return "yes"
    elif n is None:
        return "none"
    return "no"


def arithmetic(n):
    return n + 2


def swapped(n):
    return n - 2


def constant(n):
    while n < 10:
        n += 3
    return n


def keyword(n):
    return sorted((n, 5), reverse=True)


def and_or(n):
    return n > 1 and n > 4


def returned(n) -> float:
    return len((n,))


def removed(n):
    if n == 3:
        raise ValueError("three")
    found = []
    for one in range(n):
        found.append(one)
    return found


class Box:
    def inside(self, n):
        """Return the number of the inner function."""

        def inner(m):
            return m * 10

        return inner(n)
'''
CASES = (
    ("boundary", "boundary", "return n < 3", "return n <= 3", 3, False, True),
    ("negated", "negated", "if n:", "if not n:", 0, "no", "yes"),
    ("negated", "negated", "if n is None:", "if n is not None:", None, "none", "no"),
    ("arithmetic", "arithmetic", "return n + 2", "return n - 2", 5, 7, 3),
    ("arithmetic", "Box.inside.inner", "return m * 10", "return m / 10", 5, 50, 0.5),
    ("swapped", "swapped", "return n - 2", "return 2 - n", 5, 3, -3),
    ("constant", "constant", "while n < 10:", "while n < 11:", 1, 10, 13),
    ("keyword", "keyword", "return sorted((n, 5), reverse=True)", "return sorted((n, 5))", 7, [7, 5], [5, 7]),
    ("and_or", "and_or", "return n > 1 and n > 4", "return n > 1 or n > 4", 3, False, True),
    ("returned", "returned", "return len((n,))", "return len((n,)) + 1", 0, 1, 2),
    ("removed", "removed", "found.append(one)", "pass", 2, [0, 1], []),
    ("removed", "removed", "raise ValueError('three')", "pass", 3, ValueError, [0, 1, 2]),
    ("constant", "removed", "for one in range(n):", "for one in range(1):", 2, [0, 1], [0]),
)  # fmt: skip


def mutant(before: str, after: str, function: str = "f", *, file: str = "a.py", **more: object) -> Mutant:
    return Mutant(**{"id": "m001", "room": "a", "kind": "constant", "file": file, "function": function,
                     "before": before, "after": after, **more})  # fmt: skip


def outcome(source: str, function: str, argument: object) -> object:
    names: dict[str, object] = {"__name__": "made_up"}
    exec(compile(source, "made_up.py", "exec"), names)
    call = names["Box"]().inside if function.startswith("Box") else names[function]
    try:
        return call(argument)
    except ValueError:
        return ValueError


def test_every_mutant_of_the_list_is_in_the_package_once_and_can_be_planted() -> None:
    modules = read_package(suite.PACKAGE)
    mutants = read_list().mutants
    assert len({one.id for one in mutants}) == len(mutants) == 100
    places, lost = find_all(mutants, modules)
    assert not lost, "\n".join([*lost, ADVICE])
    assert len({place.statement for place in places}) == len(places), "two mutants change the same statement"
    for file in {place.function.file for place in places}:
        source = instrument(modules[file], [place for place in places if place.function.file == file])
        compile(source, file, "exec")


def test_the_list_is_spread_over_rooms_kinds_and_functions() -> None:
    mutants = read_list().mutants
    assert {one.kind for one in mutants} == set(KINDS)
    per_function = [(one.file, one.function) for one in mutants]
    assert max(map(per_function.count, per_function)) <= 2
    assert all((one.result == "killed") == bool(one.killer) for one in mutants)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_planted_mutant_acts_only_when_it_is_asked_to(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    planted = [mutant(row[2], row[3], row[1], id=f"m{place:03d}") for place, row in enumerate(CASES)]
    tree = ast.parse(MADE_UP)
    places, lost = find_all(planted, {"a.py": tree})
    assert not lost
    source = instrument(tree, places)
    _, function, _, _, argument, as_written, with_fault = CASES[number]
    assert outcome(source, function, argument) == as_written == outcome(MADE_UP, function, argument)
    monkeypatch.setenv("HISTOTUNE_MUTANT", f"m{number:03d}")
    assert outcome(source, function, argument) == with_fault
    for other in (place for place, row in enumerate(CASES) if row[1] != function):
        monkeypatch.setenv("HISTOTUNE_MUTANT", f"m{other:03d}")
        assert outcome(source, function, argument) == as_written


@pytest.mark.parametrize("row", [row for row in CASES if row[1] in KINDS and row[3] != "for one in range(1):"])
def test_each_kind_of_change_is_offered(row: tuple[str, ...]) -> None:
    kind, name, before, after = row[:4]
    function = next(one for one in functions_in(ast.parse(MADE_UP), "a.py") if one.name == name)
    statement = next(one for one in function.statements if text_of(one) == before)
    offered = [(one.kind, one.after) for one in changes_of(statement, function.node, lambda *_: False)]
    assert (kind, after) in offered or (kind, after.replace("not n", "not (n)")) in offered or (
        kind, after.replace("len((n,))", "(len((n,)))")
    ) in offered  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    ["LOG.info('%d', n + 1)", "print(n + 1)", "x = f'{n + 1} tiles'", "'a docstring' ", "console.print(n, width=3)",
     "assert n > 1", "x = 'a' + 'b'", "x = folder / name", "bar.advance(1)"],
)  # fmt: skip
def test_nothing_is_changed_that_only_a_reader_sees(statement: str) -> None:
    (function,) = functions_in(ast.parse(f"def f(n):\n    {statement}\n    return n"), "a.py")
    assert list(changes_of(function.statements[0], function.node, lambda *_: False)) == []


def test_an_option_is_dropped_only_where_its_function_has_a_default() -> None:
    (function,) = functions_in(ast.parse("def f(n):\n    return g(n, a=1, b=2)"), "a.py")
    found = changes_of(function.statements[0], function.node, lambda name, option: (name, option) == ("g", "b"))
    assert [one.after for one in found if one.kind == "keyword"] == ["return g(n, a=1)"]


def test_reaching_is_noted_once_per_test_and_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree = ast.parse(MADE_UP)
    source = instrument(tree, find_all([mutant("return n < 3", "return n <= 3")], {"a.py": tree})[0])
    monkeypatch.setenv("HISTOTUNE_MUTANT_REACH", str(tmp_path / "reach"))
    names: dict[str, object] = {"__name__": "made_up"}
    exec(compile(source, "made_up.py", "exec"), names)
    for test in ("t.py::a (call)", "t.py::a (call)", "t.py::b (setup)"):
        monkeypatch.setenv("PYTEST_CURRENT_TEST", test)
        assert names["boundary"](2) is True
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv("HISTOTUNE_MUTANT_IMPORTS", "t.py")
    assert names["boundary"](2) is True
    assert (tmp_path / "reach").read_text() == "m001\tt.py::a (call)\nm001\tt.py::b (setup)\nm001\tt.py\n"


def test_a_statement_is_found_in_another_file_and_function_and_a_lost_one_is_told() -> None:
    modules = {"new/place.py": ast.parse(MADE_UP)}
    moved = [mutant("return n + 2", "return n - 2", "arithmetic", file="old.py"),
             mutant("return n - 2", "return 2 - n", "renamed_since", file="old.py"),
             mutant("return m*10", "return m / 10", "Other.inner", file="old.py")]  # fmt: skip
    places, lost = find_all(moved, modules)
    assert [place.function.name for place in places] == ["arithmetic", "swapped", "Box.inside.inner"]
    assert not lost
    _, (message,) = find_all([mutant("return n + 22", "return n", "arithmetic")], modules)
    assert (
        message
        == "m001: no function holds the statement return n + 22; closest: return n + 2 in arithmetic (new/place.py)"
    )


def test_a_statement_of_several_functions_is_found_by_their_names_or_not_at_all() -> None:
    modules = {"a.py": ast.parse("def f(x):\n    return x + 1\n\ndef g(x):\n    return x + 1\n")}
    (place,), _ = find_all([mutant("return x + 1", "return x", "g", file="old.py")], modules)
    assert place.function.name == "g"
    _, (message,) = find_all([mutant("return x + 1", "return x", "h")], modules)
    assert "several functions hold" in message
    moved = mutant("return x", "return 1 / 0", "h", moved=Moved(function="f", before="return x + 1", after="return x"))
    (place,), _ = find_all([moved], modules)
    assert (place.function.name, place.mutant.after) == ("f", "return x")


def test_equal_statements_of_a_function_are_told_apart_by_their_number() -> None:
    tree = ast.parse("def f(x):\n    x += 1\n    x *= 2\n    x += 1\n    return x\n")
    (place,), _ = find_all([mutant("x += 1", "x -= 1", occurrence=1)], {"a.py": tree})
    assert place.statement.lineno == 4
    _, (message,) = find_all([mutant("x += 1", "x -= 1", occurrence=2)], {"a.py": tree})
    assert "only 2 times" in message


def test_a_fault_of_another_kind_of_statement_is_refused() -> None:
    tree = ast.parse("def f(x):\n    if x:\n        return 1\n")
    places, _ = find_all([mutant("if x:", "while x:")], {"a.py": tree})
    with pytest.raises(ValueError, match="not a first line like if x:"):
        instrument(tree, places)


def test_the_list_reads_back_as_written(tmp_path: Path) -> None:
    listed = MutantList(7, "abc", (
        mutant("x = 'a\\n\"'", "pass", occurrence=2, result="killed", killer="t.py::t[é]", how="failed"),
        mutant("x", "y", id="m002", reason="equivalent", moved=Moved(function="g", occurrence=0)),
    ))  # fmt: skip
    write_list(listed, tmp_path / "list.toml")
    assert read_list(tmp_path / "list.toml") == listed


def test_rooms_get_their_share_and_at_least_two() -> None:
    assert shares({"a": 900, "b": 99, "c": 1}, 20) == {"a": 15, "b": 3, "c": 2}


def test_the_same_seed_draws_the_same_mutants() -> None:
    modules = {"heads/a.py": ast.parse(MADE_UP)}
    assert choose(modules, 3, 6) == choose(modules, 3, 6) != choose(modules, 4, 6)


def test_tests_that_share_a_fixture_with_a_reaching_test_are_asked_too_the_nearest_first() -> None:
    runs = [OneTest("tests/b/test_b.py::slow", "passed", 9.0, ("tests/b::data",)),
            OneTest("tests/b/test_b.py::quick", "passed", 0.1, ("tests/b::data",)),
            OneTest("tests/a/test_x.py::near", "passed", 5.0, ()),
            OneTest("tests/test_far.py::other", "passed", 0.1, ())]  # fmt: skip
    reach = Reach({one.test: one for one in runs}, {"m001": frozenset({runs[0].test, runs[2].test, "gone"})}, ())
    asked = reach.tests_of(mutant("x", "y", file="a/x.py"))
    assert list(asked) == [runs[2].test, runs[1].test, runs[0].test]
    assert reach.tests_of(mutant("x", "y", id="m002")) == {}
    imported = Reach(reach.tests, {"m001": frozenset({"tests/test_far.py"})}, ())
    assert list(imported.tests_of(mutant("x", "y"))) == [runs[3].test]


def test_a_recorded_test_is_found_where_its_file_has_moved(tmp_path: Path) -> None:
    files = {"a/test_new.py": ("one",), "b/test_old.py": ("two", "three"), "c/test_old.py": ("three",)}
    for name, functions in files.items():
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).write_text("".join(f"def test_{one}(x): ...\n" for one in functions))
    tests = tmp_path / "tests"
    assert killer_now("tests/b/test_old.py::test_two", tests) == "tests/b/test_old.py::test_two"
    assert killer_now("tests/b/test_old.py::test_one[a::b]", tests) == "tests/a/test_new.py::test_one[a::b]"
    assert killer_now("tests/gone.py::test_three", tests) == ""
    assert killer_now("tests/gone.py::test_four", tests) == ""


def test_a_failing_a_crashing_and_an_endless_test_each_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "LEAST_LIMIT_S", 1.0)
    monkeypatch.setattr(suite, "SLOWER", 0.0)
    monkeypatch.setattr(suite, "TICK_S", 0.5)
    for name in ("project", "src", "home", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "project" / "test_made_up.py").write_text(
        "import os, time\n"
        "def act(name): return os.environ.get('HISTOTUNE_MUTANT') == name\n"
        "def test_first(): pass\n"
        "def test_fails(): assert not act('m001')\n"
        "def test_crashes(): os._exit(3) if act('m002') else None\n"
        "def test_hangs():\n    while act('m003'): time.sleep(0.1)\n"
    )
    (tmp_path / "src" / "scripts").symlink_to(suite.ROOT / "scripts")
    tests = {f"test_made_up.py::test_{name}": 0.1 for name in ("hangs", "first", "fails", "crashes")}
    monkeypatch.setattr(judge, "FIRST_FILES", 1)
    found = [judge.judge(Copy(tmp_path), mutant("x", "y", id=f"m00{number}"), tests) for number in range(1, 5)]
    assert [(one.result, one.how, one.killer.removeprefix("test_made_up.py::test_"), one.n_tests) for one in found] == [
        ("killed", "failed", "fails", 3), ("killed", "crashed", "crashes", 3), ("killed", "timeout", "hangs", 0),
        ("survived", "", "", 4),
    ]  # fmt: skip
