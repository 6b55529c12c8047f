"""What a rented machine takes and costs: the formulas, and files that their readers accept."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import pytest

from histotune.backbones.catalog import find_backbone
from histotune.backbones.spec import BackboneSpec
from histotune.cluster.cloud_plan import (
    CloudTime,
    LaunchOptions,
    card_tflops,
    embedding_time,
    find_machine,
    forward_flop,
    launch_text,
    plan_cloud,
    write_launch_files,
)
from histotune.studies.config import ExperimentConfig
from histotune.tools.errors import UserError

ODD = """it's "quoted" \\ back $HOME `date` #hash"""
TIME = CloudTime((2.0, 4.0), "Assumed.")


def spec_of(name: str) -> BackboneSpec:
    config = ExperimentConfig(recipe="tiles").backbone
    return find_backbone(config.model_copy(update={"name": name}))


def test_the_operations_of_midnight_are_those_that_torch_counts() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Dinov2Config, Dinov2Model

    small = {"hidden_size": 96, "num_hidden_layers": 2, "patch_size": 14}
    spec = BackboneSpec(
        "small", "transformers", "x", model_args=(("model_type", "dinov2"), ("use_swiglu_ffn", True), *small.items())
    )
    config = Dinov2Config(**small, num_attention_heads=4, image_size=224, use_swiglu_ffn=True)
    model = Dinov2Model(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224))
    assert forward_flop(spec) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert forward_flop(spec_of("midnight")) == pytest.approx(0.60e12, rel=0.02)
    assert forward_flop(spec_of("lite0")) is None


def test_time_is_work_over_rate_and_price_is_time_by_price() -> None:
    machine = find_machine("g4dn.xlarge")
    time = embedding_time(spec_of("midnight"), machine, 327_680)
    flop = forward_flop(spec_of("midnight"))
    assert flop is not None
    assert time.hours == pytest.approx([327_680 * flop / (65e12 * part) / 3600 for part in (0.7, 0.3)])
    plan = plan_cloud(("embed", "pcam"), time, LaunchOptions())
    assert plan.usd(spot=False)[1] == pytest.approx(0.526 * (time.hours[1] + plan.set_up_h))
    assert plan.usd(spot=True)[1] == pytest.approx(0.204 * (time.hours[1] + plan.set_up_h))
    (table,) = plan.tables()
    assert [row.cells[0] for row in table.rows] == ["on demand", "spot"]
    assert machine.date in table.as_markdown()


def test_eight_cards_take_an_eighth_and_an_unknown_backbone_has_no_time() -> None:
    eight = find_machine("p4d.24xlarge")
    flop = forward_flop(spec_of("midnight"))
    assert flop is not None
    assert embedding_time(spec_of("midnight"), eight, 1000).hours[0] == pytest.approx(
        1000 * flop / (8 * card_tflops()[eight.card] * 1e12 * 0.7) / 3600
    )
    unknown = embedding_time(spec_of("lite0"), eight, 1000)
    assert not unknown.is_known
    plan = plan_cloud(("embed", "pcam"), unknown, LaunchOptions("p4d.24xlarge"))
    assert math.isnan(plan.usd(spot=False)[0])
    assert "not known" in plan.tables()[0].as_text()


@pytest.mark.parametrize("results", ["bucket/x", "s3://B", "s3://", "https://bucket/x", "s3://bucket/a b"])
def test_a_place_that_is_no_bucket_is_refused(results: str) -> None:
    with pytest.raises(UserError, match="no place in a bucket"):
        plan_cloud(("embed", "pcam"), TIME, LaunchOptions(results=results))


def test_a_machine_without_a_price_names_those_with_one() -> None:
    with pytest.raises(UserError, match=r"g4dn\.xlarge"):
        find_machine("g4dn.xlrage")


def test_the_task_is_yaml_that_says_what_was_asked_for(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    options = LaunchOptions("p4d.24xlarge", "s3://bucket/run/", disk_gb=300)
    plan = plan_cloud(("embed", "pcam", "--data", ODD), TIME, options)
    task = yaml.safe_load(write_launch_files(plan, tmp_path)[0].read_text())
    assert task["resources"] == {
        "infra": "aws/us-east-1", "instance_type": "p4d.24xlarge", "disk_size": 300, "use_spot": False,
    }  # fmt: skip
    assert task["envs"]["RESULTS"] == "s3://bucket/run"
    said = subprocess.run(
        ["bash", "-c", f"histotune() {{ printf '%s\\n' \"$@\"; }}; {task['envs']['COMMAND']}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.splitlines() == ["embed", "pcam", "--data", ODD]
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)


def test_the_script_for_the_first_start_is_bash_and_holds_the_command(tmp_path: Path) -> None:
    plan = plan_cloud(("embed", "pcam", "--data", ODD), TIME, LaunchOptions(results="s3://bucket/run"))
    _, script = write_launch_files(plan, tmp_path)
    subprocess.run(["bash", "-n", script], check=True)
    head = script.read_text().split("WORK=")[0]
    shown = subprocess.run(
        ["bash", "-c", f'{head}\nhistotune() {{ printf "%s\\n" "$@"; }}; eval "$COMMAND"; echo "$RESULTS"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.splitlines() == ["embed", "pcam", "--data", ODD, "s3://bucket/run"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing_in_the_script(tmp_path: Path) -> None:
    path = tmp_path / "user-data.sh"
    path.write_text(launch_text("user-data.sh"))
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("aws") is None, reason="needs the AWS command line")
def test_the_aws_command_line_knows_the_options() -> None:
    lines = plan_cloud(("embed", "pcam"), TIME, LaunchOptions()).launch_lines
    done = subprocess.run(["bash", "-c", f"{lines[2]} --dry-run"], capture_output=True, text=True, check=False)
    assert "Unknown options" not in done.stderr


def test_a_line_break_in_a_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line break"):
        write_launch_files(plan_cloud(("embed", "a\nb"), TIME, LaunchOptions()), tmp_path)
    assert not list(tmp_path.iterdir())
