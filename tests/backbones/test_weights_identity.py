"""Equal weights have equal hashes, whatever their name; anything else differs. No network, no torch."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from histotune.backbones.catalog import colour_histogram, find_backbone, random_twin
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.spec import BackboneSpec
from histotune.backbones.weights import lite0_file, locate_weights, weights_hash
from histotune.tools.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def find(name: object) -> BackboneSpec:
    return find_backbone(BackboneConfig(name=str(name)))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty hub cache; the network is cut."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("cut")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    return tmp_path / "hub"


def cache_snapshot(hub: Path, repository: str, folder: Path, revision: str = "main") -> Path:
    place = hub / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / revision).write_text(COMMIT, encoding="utf-8")
    return place / "snapshots" / COMMIT


def test_a_copy_under_another_name_is_the_same_backbone(dinov2: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dinov2, tmp_path / "copy")
    assert weights_hash(find(copy)) == weights_hash(find(dinov2))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_one_changed_byte_is_another_backbone(dinov2: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(dinov2, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[-2] ^= 1 if name == "model.safetensors" else 0
    (copy / name).write_bytes(bytes(data) + (b"\n" if name == "config.json" else b""))
    spec = find(dinov2)
    assert weights_hash(replace(spec, source=str(copy))) != weights_hash(spec)


def test_random_weights_hash_by_architecture_and_seed(dinov2: Path) -> None:
    lite0, saved = find("lite0"), find(dinov2)
    hashes = [weights_hash(spec) for spec in (
        lite0, random_twin(lite0), random_twin(lite0, seed=1), saved, random_twin(saved), colour_histogram(),
    )]  # fmt: skip
    assert len(set(hashes)) == len(hashes)
    assert weights_hash(random_twin(lite0)) == weights_hash(find("random/lite0"))


def test_lite0_weights_are_the_published_file() -> None:
    assert hashlib.sha256(lite0_file().read_bytes()).hexdigest()[:8] == "57934424"


def test_a_hub_model_is_found_in_the_cache_without_a_network(hub: Path, dinov2: Path) -> None:
    snapshot = cache_snapshot(hub, "org/name", dinov2)
    spec = find("org/name")
    assert spec.revision == COMMIT
    assert locate_weights(spec).weights == (snapshot / "model.safetensors",)
    assert weights_hash(spec) == weights_hash(find(dinov2))


def test_a_timm_hub_model_is_found_in_the_cache(hub: Path, timm_folder: Path) -> None:
    snapshot = cache_snapshot(hub, "org/vit", timm_folder)
    spec = find("org/vit")
    assert (spec.kind, spec.hub_id, spec.revision) == ("timm", "org/vit", COMMIT)
    assert locate_weights(spec).weights == (snapshot / "model.safetensors",)


def test_an_absent_model_says_what_to_run(hub: Path) -> None:
    with pytest.raises(UserError, match="hub can't be reached") as caught:
        weights_hash(find("midnight"))
    assert "hf download kaiko-ai/midnight --revision adc6b156" in str(caught.value)


def test_hub_refusals_are_explained(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    response = SimpleNamespace(headers={}, status_code=403, request=None)
    cases = {
        errors.GatedRepoError: "accept its licence",
        errors.RepositoryNotFoundError: "no such repository",
        errors.RevisionNotFoundError: "no such revision",
    }
    for kind, words in cases.items():

        def refuse(*_: object, kind: type[Exception] = kind, **__: object) -> None:
            raise kind("no", response=response)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
        with pytest.raises(UserError, match=words):
            find("org/name")


def test_sharded_weights_must_be_complete_and_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}', encoding="utf-8")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}', encoding="utf-8")
    (tmp_path / "model-1.safetensors").write_bytes(b"1")
    with pytest.raises(UserError, match="missing"):
        weights_hash(find(tmp_path))
    (tmp_path / "model-2.safetensors").write_bytes(b"2")
    assert weights_hash(find(tmp_path))
    index.write_text('{"weight_map": {"a": "../model-1.safetensors"}}', encoding="utf-8")
    with pytest.raises(UserError, match="outside its folder"):
        weights_hash(find(tmp_path))
    index.unlink()
    with pytest.raises(UserError, match="holds no weights"):
        weights_hash(find(tmp_path))


def test_identity_imports_no_deep_learning_library(dinov2: Path) -> None:
    code = (
        "import sys; from histotune.backbones.catalog import *\n"
        "from histotune.backbones.entries import BackboneConfig\n"
        "from histotune.backbones.weights import weights_hash\n"
        "for name in sys.argv[1:]: weights_hash(find_backbone(BackboneConfig(name=name)))\n"
        "print([name for name in ('torch', 'timm', 'transformers', 'peft') if name in sys.modules])"
    )
    names = ["lite0", "random/lite0", "colour-histogram", str(dinov2), f"random/{dinov2}"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
