"""The DINO ViT-S models of Lunit, in timm's format."""

from histotune.backbones.entries.licences import non_commercial
from histotune.backbones.entries.where import EVA, TRIDENT
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec

HOME = "https://github.com/lunit-io/benchmark-ssl-pathology/blob"
README = f"{HOME}/1d3fd2a3d5269110bb9bd9f19bc22b6038ad745e/README.md"


def _entry(patch: int, revision: str) -> CatalogEntry:
    repository = f"1aurent/vit_small_patch{patch}_224.lunit_dino"
    return CatalogEntry(
        BackboneSpec(
            name=f"lunit-vits{patch}",
            kind="timm",
            source=f"vit_small_patch{patch}_224",
            revision=revision,
            mean=(0.70322989, 0.53606487, 0.66096631),
            std=(0.21716536, 0.26081574, 0.20723464),
            licence="Lunit Public License, non-commercial",
            citation="Kang et al. 2023, arXiv 2212.04690",
            overlap="trained on TCGA tiles: benchmarks cut from TCGA overlap; BreakHis and PatchCamelyon do not",
            default_pooling=("cls",),
            hub_id=repository,
            model_args=(("img_size", 224), ("dynamic_img_size", True)),
        ),
        about=f"DINO ViT-S/{patch} on TCGA (Lunit)",
        licence=non_commercial(
            "Lunit non-commercial", f"{HOME}/7e8dfac86c055ada50b82c5adf1bc0440421b5cd/LICENSE", outputs_restricted=False
        ),
        params_m=21.7,
        params_step_m=0.1,
        dim=384,
        registers=0,
        overlap=Overlap("yes", "no", "no"),
        sources=(
            cite(README, "dim", "architecture", "overlap"),
            cite(f"https://huggingface.co/{repository}", "hub", "revision", "params"),
            cite(f"{EVA}/lunit.py", "normalisation", "size", "pooling"),
            cite(TRIDENT, "architecture", "size"),
        ),
        verified=True,
    )


LUNIT = (_entry(16, ""), _entry(8, "c23bc01cfbe022bc1f2a8a9306125a07818e4eb4"))
