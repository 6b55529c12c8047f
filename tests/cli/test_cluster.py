"""Commands of more than one machine: what is printed, and that nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CommandResult

OPTIONAL = ("ray", "submitit", "cloudpickle", "s3fs", "fsspec", "boto3", "botocore", "aiobotocore", "sky", "yaml")


@pytest.mark.parametrize("command", [["--help"], ["cloud", "plan", "--help"]])
def test_help_imports_none_of_the_libraries_of_other_machines(command: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['histotune', *{command}]\n"
        "from histotune.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"sys.stderr.write(str(sorted(set({OPTIONAL}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]"


def test_a_plan_says_time_price_and_commands_and_writes_files(
    histotune: Callable[..., CommandResult], tmp_path: Path
) -> None:
    folder = tmp_path / "cloud"
    result = histotune(
        "cloud", "plan", "--tiles", 327680, "--results", "s3://bucket/pcam", "--out", folder, "--",
        "embed", "pcam", "--data", "s3://bucket/data", "--backbone", "midnight",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "1.2 to 2.8" in result.out
    assert "sky launch" in result.out and "aws ec2 run-instances" in result.out
    assert "a place on this computer" not in result.out
    assert sorted(path.name for path in folder.iterdir()) == ["g4dn.yaml", "user-data.sh"]
    assert "--data s3://bucket/data" in (folder / "user-data.sh").read_text()


def test_the_tiles_of_a_data_set_that_is_here_are_counted(
    histotune: Callable[..., CommandResult], breakhis: Path
) -> None:
    result = histotune("cloud", "plan", "embed", "breakhis", "--data", breakhis, "--backbone", "midnight")
    assert result.code == 0, result.err
    assert "72 tiles" in result.out
    assert "place on this computer" in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "emebd", "breakhis"], "did you mean: embed"),
        (["plan", "--", "embed", "pcam", "--data", "/nowhere", "--backbone", "midnight"], "--tiles"),
        (["plan", "--machine", "g4dn.large", "--hours", 1, "doctor"], "g4dn.xlarge"),
        (["plan", "--hours", 1, "--", "embed", "pcam", "--no-such-option"], "no such option"),
    ],
)
def test_a_mistake_is_told_before_a_machine_is_paid_for(
    words: list[object], said: str, histotune: Callable[..., CommandResult]
) -> None:
    result = histotune("cloud", *words)
    assert result.code == 2
    assert said in result.err.lower()


def test_a_recipe_and_a_known_time_will_do(histotune: Callable[..., CommandResult]) -> None:
    result = histotune("cloud", "plan", "--hours", "10", "midnight", "--data", "s3://bucket/breakhis")
    assert result.code == 0, result.err
    assert "histotune run midnight" in result.out
    assert "5.37" in result.out  # 10.2 h at 0.526 USD


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--executor", "slrum", "doctor"], "did you mean: slurm"),
        (["--ranks", 2, "--", "matrix", "breakhis"], "not shared among ranks"),
        (["--over", "finetune.loop.seed=0,1", "--", "finetune", "pcam"], "add --out folder"),
        (["--over", "seed", "--", "finetune", "pcam", "--out", "x"], "values of a config field"),
        (["emebd", "pcam"], "did you mean: embed"),
        (["--", "embed", "pcam", "--no-such-option"], "no such option"),
    ],
)
def test_a_mistake_is_told_at_once_and_not_from_the_queue(
    words: list[object], said: str, histotune: Callable[..., CommandResult], tmp_path: Path
) -> None:
    result = histotune("submit", "--logs", tmp_path / "jobs", *words)
    assert result.code == 2
    assert said in result.err.lower()
    assert not (tmp_path / "jobs").exists()


@pytest.mark.slow
def test_jobs_of_an_array_are_waited_for_and_their_ends_are_told(
    histotune: Callable[..., CommandResult], breakhis: Path, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    options = ("--executor", "local", "--gpus", 0, "--cpus", 1, "--logs", tmp_path / "jobs", "--wait")
    words = ("embed", "breakhis", "--data", breakhis, "--cache", tmp_path / "cache", "--backbone", "colour-histogram")
    good = histotune("submit", *options, "--over", "embedding.shard_tiles=4,8", "--", *words)
    assert good.code == 0, good.err
    assert good.out.count("log: ") == 2
    bad = histotune("submit", *options, "--over", "embedding.shard_tiles=4,none", "--", *words)
    assert bad.code == 2
    assert "1 of 2 jobs failed" in bad.err and "exit code 2" in bad.err
