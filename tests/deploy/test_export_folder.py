"""The plain folder's example runs without histotune, and says what ``predict`` says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import histotune as ht
from tests.deploy.conftest import MLP, SCALED, Trained

Predicted = Callable[..., NDArray[np.float64]]
REFUSE = (
    "import sys; sys.modules['histotune'] = None; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
)


def of_example(folder: Path, images: list[Path]) -> NDArray[np.float64]:
    """Run the example in a process of its own, where histotune can't be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HUB_OFFLINE"] = "1"
    command = [sys.executable, "-c", REFUSE, folder / "example.py", *images]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("\t") for line in done.stdout.splitlines() if "=" in line]
    assert [row[0] for row in rows] == [str(path) for path in images]
    return np.array([[float(cell.partition("=")[2]) for cell in row[1:]] for row in rows])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("lite0", {}, marks=pytest.mark.slow),
        ("dinov2", {"view__name": "square"}),
        pytest.param("registers", SCALED, marks=pytest.mark.slow),
        pytest.param("timm", MLP, marks=pytest.mark.slow),
        pytest.param("vit", {"view__name": "letterbox"}, marks=pytest.mark.slow),
        pytest.param("convnext", {"view__resize_px": 0}, marks=pytest.mark.slow),
    ],
)
def test_the_example_says_what_predict_says(
    name: str, options: dict[str, object], networks: dict[str, str], trained: Trained, predicted: Predicted,
    twenty: list[Path], tmp_path: Path,
) -> None:  # fmt: skip
    bundle = trained(networks[name], **options)
    mpp = 0.49 if bundle.view.target_mpp else None
    ht.export(bundle, "folder", out=tmp_path / "out", for_own_use=True, mpp=mpp)
    found = of_example(tmp_path / "out", twenty)
    np.testing.assert_allclose(found, predicted(bundle, mpp=mpp), rtol=0, atol=1e-4)
    script = (tmp_path / "out" / "example.py").read_text(encoding="utf-8")
    code = [line for line in script.split('"""')[2].splitlines() if line.strip()]
    assert len(code) <= 36


def test_a_licence_that_forbids_gives_the_head_alone(
    networks: dict[str, str], trained: Trained, tmp_path: Path
) -> None:
    done = ht.export(trained(networks["dinov2"]), "folder", out=tmp_path / "out")  # a local folder: no licence known
    assert not done.with_weights and "the head alone was written" in str(done)
    assert "is not known to let one pass on the weights" in str(done)
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert names == {
        "README.md", "NOTICE.txt", "head.json", "head.safetensors", "example.py", "histotune_export.json",
    }  # fmt: skip
    assert networks["dinov2"] not in (tmp_path / "out" / "head.json").read_text(encoding="utf-8")


def test_the_head_alone_says_the_same_with_the_backbone_from_elsewhere(
    networks: dict[str, str], trained: Trained, predicted: Predicted, twenty: list[Path], tmp_path: Path
) -> None:
    bundle = trained(networks["dinov2"])
    ht.export(bundle, "folder", out=tmp_path / "out", head_only=True)
    facts = json.loads((tmp_path / "out" / "head.json").read_text(encoding="utf-8"))
    (tmp_path / "out" / "head.json").write_text(json.dumps({**facts, "backbone": networks["dinov2"]}))
    np.testing.assert_allclose(of_example(tmp_path / "out", twenty), predicted(bundle), rtol=0, atol=1e-4)
