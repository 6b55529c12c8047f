"""A hub repository is known by its name, however it was written."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from histotune.backbones.access import check_access
from histotune.backbones.catalog import find_entry
from histotune.backbones.entries import BackboneConfig, hub_name


@pytest.mark.parametrize(
    "typed",
    [
        "hf-hub:kaiko-ai/midnight", "hf_hub:kaiko-ai/midnight", "hf://kaiko-ai/midnight",
        "timm/hf-hub:kaiko-ai/midnight",
        "https://huggingface.co/kaiko-ai/midnight", "https://huggingface.co/kaiko-ai/midnight/",
        "http://www.huggingface.co/kaiko-ai/midnight/tree/main", "huggingface.co/kaiko-ai/midnight",
        "https://hf.co/kaiko-ai/midnight/blob/main/README.md", "https://huggingface.co/kaiko-ai/midnight?library=timm",
        " https://huggingface.co/kaiko-ai/midnight#use",
    ],
)  # fmt: skip
def test_names_and_addresses_of_the_hub(typed: str) -> None:
    config = BackboneConfig(name=typed)
    assert (config.name, config.revision) == ("kaiko-ai/midnight", "")
    entry = find_entry(config.name)
    assert entry is not None and entry.name == "midnight"
    assert BackboneConfig(name=f"random/{typed.strip()}").name == "random/kaiko-ai/midnight"


def test_a_revision_comes_with_the_address_unless_another_was_named() -> None:
    address = "https://huggingface.co/a/b/resolve/v2/model.safetensors?download=true"
    assert BackboneConfig(name=address).revision == "v2"
    assert BackboneConfig(name=address, revision="v3").revision == "v3"
    assert BackboneConfig(name="hf-hub:a/b@v1").revision == "v1"
    adapter = BackboneConfig(adapter="https://huggingface.co/a/lora/tree/v4")
    assert (adapter.adapter, adapter.adapter_revision) == ("a/lora", "v4")


@pytest.mark.parametrize("typed", ["midnight", "timm/vit_small_patch16_224", "./folder", "/a/b", "external:x", "a/b"])
def test_other_names_stay_as_they_are(typed: str) -> None:
    assert hub_name(typed).name == typed


def test_access_is_asked_for_by_the_bare_name() -> None:
    asked: list[str] = []
    api = SimpleNamespace(model_info=lambda name, **_: asked.append(name) or SimpleNamespace(gated=False, siblings=()))
    (report,) = check_access(["https://huggingface.co/a/b"], api)
    assert (len(report.findings), asked) == (3, ["a/b"])
