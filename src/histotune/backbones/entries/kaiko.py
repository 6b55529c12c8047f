"""The DINO and DINOv2 models of kaiko.ai's first release, in timm's format."""

from histotune.backbones.entries.licences import non_commercial
from histotune.backbones.entries.where import TRIDENT, WSISTREAM
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec, ModelArgument

HOME = "https://github.com/kaiko-ai/towards_large_pathology_fms"
CODE = f"{HOME}/blob/480274c706932c07d9dc93e15fe75aead920b0dc/hubconf.py"
README = f"{HOME}/blob/241ecca572c3527f4b26a70d79903af4318e6b3b/README.md"
LICENCE = f"{HOME}/blob/abc4012060e43c956126bbc6ca28877f926b3d56/LICENSE"


def _entry(
    name: str, architecture: str, repository: str, revision: str, params: tuple[float, float], dim: int,
    *extra: tuple[str, ModelArgument],
) -> CatalogEntry:  # fmt: skip
    registers = 4 if "reg4" in architecture else 0
    return CatalogEntry(
        BackboneSpec(
            name=name,
            kind="timm",
            source=architecture,
            revision=revision,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bilinear",
            licence="Kaiko Non-Commercial Public License",
            citation="kaiko.ai et al. 2024, arXiv 2404.15217",
            training_mpp=(0.25, 0.5, 1.0, 2.0),
            overlap="trained on TCGA slides: benchmarks cut from TCGA overlap; BreakHis and PatchCamelyon do not",
            default_pooling=("cls",),
            hub_id=repository,
            model_args=(("dynamic_img_size", True), *extra),
        ),
        about=f"{architecture}, DINO{'v2' if registers else ''} on TCGA (kaiko.ai)",
        licence=non_commercial("Kaiko non-commercial", LICENCE, outputs_restricted=False),
        params_m=params[0],
        params_step_m=params[1],
        dim=dim,
        registers=registers,
        overlap=Overlap("yes", "no", "no"),
        sources=(
            cite(CODE, "dim", "registers", "architecture", "pooling"),
            cite(README, "normalisation", "size", "overlap"),
            cite(f"https://huggingface.co/{repository} (size of model.safetensors, fp32)", "hub", "revision", "params"),
            cite(TRIDENT, "hub", "architecture"),
            cite(f"{WSISTREAM}/midnight.md", "mpp"),
        ),
        verified=True,
    )


_SUFFIX = "kaiko_ai_towards_large_pathology_fms"
KAIKO_S16 = _entry("kaiko-vits16", "vit_small_patch16_224", f"1aurent/vit_small_patch16_224.{_SUFFIX}", "",
                   (21.7, 0.1), 384)  # fmt: skip
KAIKO_S8 = _entry("kaiko-vits8", "vit_small_patch8_224", f"1aurent/vit_small_patch8_224.{_SUFFIX}",
                  "003775444da0119f90ca63e2b86e454fd06ba797", (21.7, 0.1), 384)  # fmt: skip
KAIKO_B16 = _entry("kaiko-vitb16", "vit_base_patch16_224", f"1aurent/vit_base_patch16_224.{_SUFFIX}",
                   "797c524a94c7fdae8ea33064d0ac6966ed8956bb", (85.8, 0.2), 768)  # fmt: skip
KAIKO_B8 = _entry("kaiko-vitb8", "vit_base_patch8_224", f"1aurent/vit_base_patch8_224.{_SUFFIX}",
                  "a4eb74de76274a5f3fe8260841a1b07a90930f43", (85.8, 0.2), 768)  # fmt: skip
KAIKO_L14 = _entry("kaiko-vitl14", "vit_large_patch14_reg4_dinov2", f"1aurent/vit_large_patch14_reg4_224.{_SUFFIX}",
                   "d86df45eccdb957aa7869bab7d11f8e158dcbda2", (305, 1.5), 1024, ("img_size", 518))  # fmt: skip
KAIKO = (KAIKO_S16, KAIKO_S8, KAIKO_B16, KAIKO_B8, KAIKO_L14)
