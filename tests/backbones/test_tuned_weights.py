"""Changed tensors as an adapter: put back exactly on their own base, and refused by one message everywhere else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from histotune.backbones.adapters import SIDECAR, TUNED, adapter_hash, locate_adapter, save_adapter
from histotune.backbones.catalog import find_backbone, random_twin
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.network import build_network
from histotune.backbones.spec import BackboneSpec
from histotune.backbones.tuned_weights import place_tensors, save_tuned
from histotune.backbones.weights import weights_hash
from histotune.images.hashes import HashIndex
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file, read_json, write_sealed

N_FLIPS = 200
OLD_NS = 1_000_000_000_000_000_000  # 2001: settled, so that content hashes are remembered
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
OLD_NAMES = (
    (".attention.q_proj.", ".attention.attention.query."), (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."), (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.down_proj.", ".mlp.weights_out."),
)  # fmt: skip


def spec_of(folder: Path, **options: str) -> BackboneSpec:
    return find_backbone(BackboneConfig(name=str(folder), **options))


def changed(spec: BackboneSpec, part: str = "") -> dict[str, torch.Tensor]:
    """Return new values of a network's tensors whose names hold a word."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + 0.1 * torch.rand(tensor.shape, generator=generator)
        for name, tensor in build_network(spec).module.state_dict().items()
        if part in name and tensor.is_floating_point()
    }


def state(spec: BackboneSpec) -> dict[str, torch.Tensor]:
    return dict(build_network(spec).module.state_dict())


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Put other tensors into an adapter, with a sidecar that vouches for them."""
    save_file(tensors, folder / TUNED)
    facts = {name: value for name, value in read_json(folder / SIDECAR).items() if name != "checksum"}
    write_sealed(folder / SIDECAR, {**facts, "sha256": hash_file(folder / TUNED)})


@pytest.fixture
def tuned(dinov2: Path, tmp_path: Path) -> Path:
    """Return the last block of a tiny Midnight, trained."""
    save_tuned(changed(spec_of(dinov2), "layer.1."), tmp_path / "tuned", spec_of(dinov2), "last-blocks")
    return tmp_path / "tuned"


def lite0(source: str) -> BackboneSpec:
    spec = find_backbone(BackboneConfig(name=source))
    return replace(random_twin(spec), size_px=64)


@pytest.mark.parametrize("part", ["", "norm", "layer.1.", "cls_token"])
def test_tensors_come_back_exactly_and_no_others_change(dinov2: Path, tmp_path: Path, part: str) -> None:
    before, stored = state(spec_of(dinov2)), (dinov2 / "model.safetensors").read_bytes()
    tensors = changed(spec_of(dinov2), part)
    save_tuned(tensors, tmp_path / "a", spec_of(dinov2), "full")
    after = state(spec_of(dinov2, adapter=str(tmp_path / "a")))
    assert set(load_file(tmp_path / "a" / TUNED)) == set(tensors)
    assert after.keys() == before.keys()
    assert (dinov2 / "model.safetensors").read_bytes() == stored  # the network may share memory with its file
    for name, tensor in after.items():
        assert torch.equal(tensor, tensors.get(name, before[name])), name


def test_a_timm_vit_and_its_embeddings(timm_folder: Path, tmp_path: Path, cpu: ComputeDevice) -> None:
    tensors = changed(spec_of(timm_folder), "blocks.1.")
    save_tuned(tensors, tmp_path / "a", spec_of(timm_folder), "last-blocks")
    spec = spec_of(timm_folder, adapter=str(tmp_path / "a"))
    tiles = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    module = build_network(spec_of(timm_folder)).module
    module.load_state_dict({**module.state_dict(), **tensors})
    x_BCSS = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        tokens_BTD = module.forward_features((x_BCSS - mean) / std)  # type: ignore[operator]
    expected_BD = torch.cat([tokens_BTD[:, 0], tokens_BTD[:, 3:].mean(1)], dim=1).numpy()
    result_BD = load_backbone(spec, cpu, "fp32").embed(tiles)
    np.testing.assert_allclose(result_BD, expected_BD, rtol=1e-5, atol=1e-5)
    assert not np.allclose(result_BD, load_backbone(spec_of(timm_folder), cpu, "fp32").embed(tiles), atol=1e-2)


def test_all_weights_of_a_convolutional_network_without_the_counters_of_its_norms(tmp_path: Path) -> None:
    spec = lite0("lite0")
    tensors = changed(spec)
    counters = {name: tensor + 1 for name, tensor in state(spec).items() if name.endswith("num_batches_tracked")}
    save_tuned({**tensors, **counters}, tmp_path / "a", spec, "full")
    after = state(replace(spec, adapter=str(tmp_path / "a")))
    assert counters and all(torch.equal(after[name], tensor) for name, tensor in tensors.items())
    assert all(not torch.equal(after[name], tensor) for name, tensor in counters.items())


def test_views_of_one_memory_and_lower_precisions_are_saved(dinov2: Path, tmp_path: Path) -> None:
    both_ND = torch.rand(2, 32)
    tensors = {"layernorm.weight": both_ND[0], "layernorm.bias": both_ND[:, ::2].reshape(-1).bfloat16()}
    save_tuned(tensors, tmp_path / "a", spec_of(dinov2), "norms")
    after = state(spec_of(dinov2, adapter=str(tmp_path / "a")))
    assert all(torch.equal(after[name], tensor.float()) for name, tensor in tensors.items())


def test_the_sidecar_names_base_method_and_naming_and_no_other_file_lies_there(tuned: Path, dinov2: Path) -> None:
    facts = read_json(tuned / SIDECAR)
    assert sorted(path.name for path in tuned.iterdir()) == [SIDECAR, TUNED]
    assert (facts["format"], facts["kind"], facts["method"]) == (1, "tensors", "last-blocks")
    assert facts["base"]["weights_hash"] == weights_hash(spec_of(dinov2))
    assert facts["naming"]["library"] == "transformers" and facts["naming"]["version"]
    assert "encoder.layer.N.norm1.weight" in facts["naming"]["tensors"]
    assert facts["sha256"] == hash_file(tuned / TUNED)
    assert locate_adapter(str(tuned)).kind == "tensors"


def test_it_is_part_of_the_space_by_its_tensors_alone(
    dinov2: Path, tuned: Path, tmp_path: Path, cpu: ComputeDevice
) -> None:
    from histotune.embeddings.space import embedding_space
    from histotune.images.config import ViewConfig

    tensors = changed(spec_of(dinov2), "layer.1.")
    save_tuned(tensors, tmp_path / "again", spec_of(dinov2), "another-word")
    save_tuned({**tensors, "layernorm.bias": torch.ones(32)}, tmp_path / "other", spec_of(dinov2), "last-blocks")
    spaces = [
        embedding_space(spec_of(dinov2, adapter=adapter), ViewConfig(size_px=56), cpu, "fp32")
        for adapter in ("", str(tuned), str(tmp_path / "again"), str(tmp_path / "other"))
    ]
    plain, own, again, other = (space.key for space in spaces)
    assert own == again and len({plain, own, other}) == 3
    assert len({space.weights_hash for space in spaces}) == 1


def test_a_base_is_hashed_once_however_often_the_tuned_backbone_is_loaded(
    dinov2: Path, tuned: Path, tmp_path: Path, cpu: ComputeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noting(path: Path) -> str:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr("histotune.images.hashes.hash_file", noting)
    for path in (*dinov2.glob("*.safetensors"), tuned / TUNED):
        os.utime(path, ns=(OLD_NS, OLD_NS))
    spec, index = spec_of(dinov2, adapter=str(tuned)), HashIndex(tmp_path / "hashes.sqlite")
    assert adapter_hash(spec, index)
    assert sorted(read) == ["model.safetensors", TUNED]
    for known in (index, HashIndex(tmp_path / "hashes.sqlite")):  # of this process, and of another
        load_backbone(spec, cpu, "fp32", known)
    assert len(read) == 2
    other = load_file(dinov2 / "model.safetensors")
    other["layernorm.bias"] += 1
    save_file(other, dinov2 / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="trained on other weights"):  # what is remembered is of another state
        load_backbone(spec, cpu, "fp32", index)


# ---- What is refused ----


def refused(folder: Path, adapter: Path, words: str) -> UserError:
    """Assert that an adapter is refused when it is loaded, and return the message."""
    with pytest.raises(UserError, match=words) as caught:
        build_network(spec_of(folder, adapter=str(adapter)))
    assert caught.value.fix
    return caught.value


def test_another_base_is_refused_by_the_hash_of_its_weights(tuned: Path, dinov2: Path, tmp_path: Path) -> None:
    other = shutil.copytree(dinov2, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["layernorm.bias"] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert "choose --backbone" in str(refused(other, tuned, "trained on other weights"))
    with pytest.raises(UserError, match="trained on other weights"):
        adapter_hash(spec_of(other, adapter=str(tuned)))


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("encoder.layer.9.norm1.weight", torch.ones(32), r"1 have no place there, e\.g\. encoder\.layer\.9"),
        ("classifier.weight", torch.ones(2, 32), "have no place there"),
        ("encoder.layer.0.mlp.weights_in.weight", torch.ones(3, 32), "have no place there|have another shape"),
        ("encoder.layer.0.mlp.weights_in.weight", torch.ones(6, 32), "have another shape"),
        ("encoder.layer.0.mlp.weights_in.weight", torch.tensor(1.0), "have no place there|have another shape"),
        ("layernorm.weight", torch.ones(31), r"1 have another shape, e\.g\. layernorm\.weight"),
        ("layernorm.weight", torch.ones(1), "have another shape"),
        ("layernorm.weight", torch.full((32,), float("nan")), r"not finite, in 1 tensors, e\.g\. layernorm"),
        ("layernorm.weight", torch.full((32,), 1e300, dtype=torch.float64), "not finite"),
        ("layernorm.weight", torch.ones(32, dtype=torch.int64), "has type int64"),
        ("layernorm.weight", torch.ones(32, dtype=torch.complex64), "has type complex64"),
    ],
)
def test_every_tensor_must_have_its_place_its_shape_and_numbers(
    dinov2: Path, tuned: Path, name: str, tensor: torch.Tensor, words: str
) -> None:
    try:
        rewrite(tuned, {**load_file(tuned / TUNED), name: tensor})
    except KeyError:
        if not tensor.is_complex():
            raise
        pytest.skip("this safetensors writes no complex numbers")
    refused(dinov2, tuned, words)


def test_a_tensor_given_under_two_names_is_refused(dinov2: Path, tuned: Path) -> None:
    tensors = load_file(tuned / TUNED)
    names = {f"encoder.layer.1.attention.{name}.bias" for name in ("attention.query", "q_proj")}
    (other,) = names - tensors.keys()  # the installed transformers has one of them, the other is another version's
    rewrite(tuned, {**tensors, other: torch.ones(32)})
    refused(dinov2, tuned, "1 are given twice, e.g. encoder.layer.1.attention")


def test_what_can_not_be_an_adapter_is_not_saved(dinov2: Path, tmp_path: Path) -> None:
    spec = spec_of(dinov2)
    for tensors, words in (
        ({}, "changed no tensor"),
        ({"layernorm.bias": torch.full((32,), float("inf"))}, "not finite"),
        ({"steps": torch.ones(1, dtype=torch.int64)}, "has type int64"),
    ):
        with pytest.raises(UserError, match=words):
            save_tuned(tensors, tmp_path / "a", spec, "full")
    assert not (tmp_path / "a").exists()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds other files.*notes\.txt"):
        save_tuned({"layernorm.bias": torch.ones(32)}, tmp_path, spec, "norms")


@pytest.mark.parametrize("file", [TUNED, SIDECAR])
def test_a_changed_byte_is_never_silent(dinov2: Path, tmp_path: Path, file: str) -> None:
    save_tuned({"layernorm.bias": torch.ones(32)}, tmp_path / "a", spec_of(dinov2), "norms")
    path, spec = tmp_path / "a" / file, spec_of(dinov2, adapter=str(tmp_path / "a"))
    whole, expected = path.read_bytes(), adapter_hash(spec)
    rng = np.random.default_rng(0)
    silent = []
    for place in rng.integers(0, len(whole), N_FLIPS):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :])
        try:
            silent += [int(place)] if adapter_hash(spec) != expected or file == TUNED else []
        except UserError:
            continue
    assert not silent
    path.write_bytes(whole)
    assert adapter_hash(spec) == expected


def test_changed_bytes_are_refused_when_the_network_is_built(dinov2: Path, tuned: Path) -> None:
    whole = (tuned / TUNED).read_bytes()
    for place in (0, 9, len(whole) // 2, len(whole) - 1):
        (tuned / TUNED).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(dinov2, tuned, "has changed since it was written")


def no_sidecar(folder: Path) -> None:
    (folder / SIDECAR).unlink()


def both_kinds(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")


def peft_in_its_place(folder: Path) -> None:
    both_kinds(folder)
    (folder / TUNED).rename(folder / "adapter_model.safetensors")


def pointer(folder: Path) -> None:
    (folder / TUNED).write_text(POINTER, encoding="utf-8")


def pickled(folder: Path) -> None:
    (folder / TUNED).rename(folder / "tuned_weights.bin")


def newer(folder: Path) -> None:
    (folder / SIDECAR).write_text(json.dumps({"format": 2, "kind": "tensors"}), encoding="utf-8")


def foreign(folder: Path) -> None:
    write_sealed(folder / SIDECAR, {"format": 1, "naming": {}, "base": {}})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_sidecar, "nobody can tell which weights"),
        (both_kinds, "files of two kinds"),
        (peft_in_its_place, "files of two kinds"),
        (pointer, "a pointer of Git LFS"),
        (pickled, "no adapter_config.json and no tuned_weights.safetensors"),
        (newer, "format 2, which this histotune does not know"),
        (foreign, "speaks of another kind"),
    ],
)
def test_a_folder_that_is_no_adapter_is_one_message(
    dinov2: Path, tuned: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(tuned)
    refused(dinov2, tuned, words)
    with pytest.raises(UserError, match=words):
        adapter_hash(spec_of(dinov2, adapter=str(tuned)))


def test_an_adapter_on_an_adapter_is_refused_with_the_way_round_it(dinov2: Path, tuned: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    spec = spec_of(dinov2, adapter=str(tuned))
    with pytest.raises(UserError, match="an adapter on an adapter") as caught:
        save_tuned({"layernorm.bias": torch.ones(32)}, tmp_path / "b", spec, "norms")
    assert "histotune backbones merge" in str(caught.value)
    module = build_network(spec).module
    name = next(name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear))
    with pytest.raises(UserError, match="an adapter on an adapter"):
        save_adapter(get_peft_model(module, LoraConfig(target_modules=[name])), tmp_path / "b", spec)
    assert not (tmp_path / "b").exists()


# ---- Names of other versions of transformers ----


def older(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as transformers up to 5.10 named them, the halves of a SwiGLU input joined."""
    found = {}
    for name, tensor in tensors.items():
        for new, old in OLD_NAMES:
            name = name.replace(new, old)  # noqa: PLW2901
        if ".mlp.gate_proj." in name:
            up = tensors[name.replace("gate_proj", "up_proj")]
            found[name.replace("gate_proj", "weights_in")] = torch.cat([tensor, up])
        elif ".mlp.up_proj." not in name:
            found[name] = tensor
    return found


def newest(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as transformers from 5.23 names them, whichever is installed."""
    found = {}
    for name, tensor in tensors.items():
        for new, old in OLD_NAMES:
            name = name.replace(old, new)  # noqa: PLW2901
        if ".mlp.weights_in." in name:
            for half, part in zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True):
                found[name.replace("weights_in", half)] = part.contiguous()
        else:
            found[name] = tensor
    return found


@pytest.mark.parametrize("version", [older, newest])
def test_names_of_both_versions_give_the_same_network(
    dinov2: Path, tmp_path: Path, version: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    tensors = changed(spec_of(dinov2))
    save_tuned(version(tensors), tmp_path / "a", spec_of(dinov2), "full")
    after = state(spec_of(dinov2, adapter=str(tmp_path / "a")))
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())


def test_halves_are_joined_exactly_and_one_alone_leaves_the_other(dinov2: Path) -> None:
    new = newest(state(spec_of(dinov2)))
    held = older(new)
    both = place_tensors({name: tensor + 1 for name, tensor in new.items()}, held, translate=True)
    assert not both.problems and both.tensors.keys() == held.keys()
    assert all(torch.equal(both.tensors[name], tensor + 1) for name, tensor in held.items())
    up = "encoder.layer.0.mlp.up_proj.weight"
    alone = place_tensors({up: new[up] + 1}, held, translate=True).tensors["encoder.layer.0.mlp.weights_in.weight"]
    assert torch.equal(alone, torch.cat([new[up.replace("up_proj", "gate_proj")], new[up] + 1]))
    assert place_tensors({up: new[up][1:]}, held, translate=True).problems
    assert place_tensors({up: new[up]}, held, translate=False).problems


def test_names_that_two_tensors_would_share_are_not_translated() -> None:
    held = {"encoder.layer.0.norm.weight": torch.ones(2), "layers.0.norm.weight": torch.ones(2)}
    placed = place_tensors({"layer.0.norm.weight": torch.zeros(2)}, held, translate=True)
    assert placed.problems and not placed.tensors
    assert place_tensors({"layers.0.norm.weight": torch.zeros(2)}, held, translate=True).tensors


# ---- The hub ----


def test_a_repository_of_the_hub_cache_is_pinned_and_loads(
    dinov2: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit, place = "c" * 40, tmp_path / "hub" / "models--org--tuned"
    shutil.copytree(tuned, place / "snapshots" / commit / "seed0")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit, encoding="utf-8")
    spec = spec_of(dinov2, adapter="org/tuned/seed0")
    assert spec.adapter_revision == commit
    local = spec_of(dinov2, adapter=str(tuned))
    assert adapter_hash(spec) == adapter_hash(local)
    own, expected = state(spec), state(local)
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())
    both_kinds(place / "snapshots" / commit / "seed0")
    with pytest.raises(UserError, match="files of two kinds"):
        locate_adapter("org/tuned/seed0", commit)


def test_a_repository_is_asked_for_either_kind(
    dinov2: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = []

    def download(repository: str, name: str, **_: object) -> str:
        asked.append(name)
        if not (tuned / name).is_file():
            raise EntryNotFoundError("404")
        return str(tuned / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert locate_adapter("org/tuned").weights == tuned / TUNED
    assert asked == ["adapter_config.json", TUNED, SIDECAR]
    (tuned / SIDECAR).unlink()
    with pytest.raises(UserError, match="nobody can tell"):
        locate_adapter("org/tuned")
