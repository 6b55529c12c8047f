"""Every entry has a source for each figure it states; architectures at full size have the cited figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from histotune.backbones.catalog import find_backbone, find_entry
from histotune.backbones.entries import BackboneConfig, CatalogEntry, catalog_entries, parse_catalog
from histotune.tools.errors import UserError
from histotune.tools.provenance import library_version
from tests.backbones.shapes import agrees, measure_shape, stated_figures

BUILDABLE = [entry for entry in catalog_entries() if entry.own_code is None and entry.spec.kind != "colour-histogram"]
TIER_A = (
    "midnight", "uni", "uni2-h", "virchow", "virchow2", "h-optimus-0", "h-optimus-1", "h0-mini", "prov-gigapath",
    "phikon", "phikon-v2", "kaiko-vits8", "kaiko-vits16", "kaiko-vitb8", "kaiko-vitb16", "kaiko-vitl14", "lunit-vits8",
    "lunit-vits16", "gpfm", "openmidnight", "dinov2-g", "dinov3-l", "plip", "resnet50",
)  # fmt: skip


def available(entry: CatalogEntry) -> bool:
    """Whether the installed libraries are new enough for an entry."""
    if not entry.needs:
        return True
    name, _, wanted = entry.needs.partition(">=")
    numbers = [int(part) for part in re.findall(r"\d+", library_version(name))[:3]]
    return numbers >= [int(part) for part in wanted.split(".")]


@pytest.mark.parametrize("entry", catalog_entries(), ids=lambda entry: entry.name)
def test_each_stated_figure_has_a_source(entry: CatalogEntry) -> None:
    cited = {figure for source in entry.sources for figure in source.figures}
    assert set(stated_figures(entry)) <= cited, set(stated_figures(entry)) - cited
    assert entry.sources and entry.licence.source
    assert all(source.where for source in entry.sources)
    assert not any("memory" in source.where for source in entry.sources)


@pytest.mark.parametrize("entry", BUILDABLE, ids=lambda entry: entry.name)
def test_the_status_is_what_building_it_at_full_size_finds(entry: CatalogEntry) -> None:
    if not available(entry):
        pytest.skip(f"needs {entry.needs}")
    shape = measure_shape(entry.spec, with_classifier=entry.with_classifier)
    assert entry.status == ("shape-verified" if agrees(entry, shape) else "listed"), shape


def test_wrong_figures_are_found() -> None:
    entry = find_entry("lunit-vits16")
    assert entry is not None
    shape = measure_shape(entry.spec)
    for change in ({"dim": 768}, {"registers": 4}, {"params_m": 22.1}):
        assert not agrees(CatalogEntry(**{**vars(entry), **change}), shape), change
    assert not agrees(CatalogEntry(**{**vars(entry), "dim": None}), shape)


def test_tier_a_is_complete_and_verified() -> None:
    verified = {entry.name for entry in catalog_entries() if entry.status == "shape-verified"}
    assert set(TIER_A) <= verified


def test_revisions_are_commits_or_empty() -> None:
    for entry in catalog_entries():
        assert re.fullmatch(r"([0-9a-f]{40})?", entry.spec.revision), entry.name


def test_a_gated_licence_says_so() -> None:
    for entry in catalog_entries():
        assert entry.spec.gated == ("gated" in entry.licence.name) or entry.own_code is not None, entry.name


CATALOG = """
[pages]
guide = "https://example.org/guide"

[licences.open]
name = "Open"
commercial = true

[[backbone]]
name = "one"
about = "the first"
kind = "timm"
source = "vit_small_patch16_224"
hub_id = "somebody/one"
licence = "open"
licence_source = "https://example.org/{repository}"
model_args = { img_size = 224, act_layer = "SiLU" }
sources = [{ where = "{guide}#dim", figures = ["dim"] }]

[[backbone]]
name = "two"
like = "one"
hub_id = "somebody/two"
dim = 7
"""


def test_an_entry_takes_what_it_does_not_write_from_the_one_it_is_like() -> None:
    one, two = parse_catalog(CATALOG)
    assert (one.dim, two.dim, two.about) == (None, 7, "the first")
    assert [entry.licence.source for entry in (one, two)] == [
        f"https://example.org/somebody/{n}" for n in ("one", "two")
    ]
    assert one.licence.commercial is True
    assert one.licence.share_weights is None
    assert one.spec.model_args == two.spec.model_args == (("img_size", 224), ("act_layer", "SiLU"))
    assert two.sources[0].where == "https://example.org/guide#dim"


@pytest.mark.parametrize(
    ("written", "instead", "words"),
    [
        ('["dim"]', '["colour"]', "colour, which is none of"),
        ("dim = 7", "dims = 7", "two holds dims, which is none of"),
        ('like = "one"', 'like = "three"', "two is like three"),
        ("commercial", "comercial", "open holds comercial"),
    ],
)
def test_a_name_that_is_not_known_is_a_mistake_in_the_catalog(written: str, instead: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_catalog(CATALOG.replace(written, instead))


@pytest.mark.parametrize(
    "name", ["conch", "MahmoodLab/CONCH", "mahmoodlab/conch", "musk", "keep", "beph", "random/musk"]
)
def test_backbones_with_code_of_their_own_are_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(UserError, match="never run") as caught:
        find_backbone(BackboneConfig(name=name))
    assert "histotune cache import" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_names_of_timm_keep_the_transform_of_timm() -> None:
    own, ours = (find_backbone(BackboneConfig(name=f"random/{name}")) for name in
                 ("timm/vit_small_patch14_dinov2.lvd142m", "dinov2-s"))  # fmt: skip
    assert (own.size_px, ours.size_px) == (518, 224)


def test_local_weights_take_the_place_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    spec = find_backbone(BackboneConfig(name="uni2-h", weights=str(tmp_path / "weights.bin")))
    assert (spec.checkpoint, spec.repository, spec.revision) == (str(tmp_path / "weights.bin"), "", "")
    assert find_backbone(BackboneConfig(name="phikon", weights=str(tmp_path))).source == str(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        find_backbone(BackboneConfig(name="uni", weights=str(tmp_path / "absent")))
    with pytest.raises(UserError, match="can't take the place"):
        find_backbone(BackboneConfig(name="phikon", weights=str(tmp_path / "weights.bin")))
