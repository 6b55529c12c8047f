"""ResNet-50 on ImageNet: what pathology used before."""

from histotune.backbones.entries.licences import bsd3
from histotune.backbones.entries.where import IMAGENET_MEAN, IMAGENET_STD
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec

CARD = "https://huggingface.co/timm/resnet50.tv_in1k"
CONFIG = f"{CARD}/blob/aa6c2d36d56bc0209040c02b5a7b7d7bf11d57b8/config.json"

RESNET50 = CatalogEntry(
    BackboneSpec(
        name="resnet50",
        kind="timm",
        source="resnet50.tv_in1k",
        revision="99108565f2fd2a9d8a1b640156f564d7f4ad7188",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bilinear",
        licence="BSD-3-Clause",
        citation="He et al. 2015, arXiv 1512.03385; weights of torchvision",
        overlap="none: natural images (ImageNet-1k)",
        hub_id="timm/resnet50.tv_in1k",
    ),
    about="ResNet-50, ImageNet (torchvision's first weights)",
    licence=bsd3(CONFIG),
    params_m=25.6,
    params_step_m=0.1,
    with_classifier=True,
    dim=2048,
    overlap=Overlap("no", "no", "no"),
    sources=(
        cite(CONFIG, "hub", "dim", "normalisation", "size", "overlap"),
        cite(f"{CARD}/commit/99108565f2fd2a9d8a1b640156f564d7f4ad7188", "revision"),
        cite("https://huggingface.co/timm/resnet50.tv2_in1k (the same architecture)", "params"),
    ),
    notes=("pooled over the last stage, 2048 wide; some pathology toolkits take the third stage, 1024 wide",),
    verified=True,
)
