"""Backbones that need code of their own: listed with the reason, and refused with what to do instead."""

from histotune.backbones.entries.licences import apache_gated, mit, no_derivatives
from histotune.backbones.entries.where import TRIDENT, TRIDENT_TABLE
from histotune.backbones.entry import CatalogEntry, Licence, OwnCode, cite
from histotune.backbones.spec import BackboneSpec

ELSEWHERE = "embed your tiles with it elsewhere and bring the embeddings in with `histotune cache import`"
REMOTE = "its repository ships Python that transformers would run (trust_remote_code), which is never done here"


def _listed(
    name: str, repository: str, about: str, licence: Licence, own_code: OwnCode, **facts: object
) -> CatalogEntry:
    dim, gated = facts.get("dim"), bool(facts.get("gated", True))
    figures = ["hub", *(["dim"] if dim is not None else []), *(["gated"] if gated else [])]
    where = str(facts.get("where", TRIDENT_TABLE))
    spec = BackboneSpec(
        name=name, kind="own-code", source=repository, gated=gated, licence=licence.name, citation=where,
        overlap="not compared",
    )  # fmt: skip
    return CatalogEntry(
        spec, about, licence, dim=dim if isinstance(dim, int) else None, own_code=own_code,
        sources=(cite(where, *figures),),
    )  # fmt: skip


CONCH = _listed(
    "conch", "MahmoodLab/CONCH", "CONCH, CoCa ViT-B/16 for images and text (Mahmood Lab)",
    no_derivatives(TRIDENT_TABLE),
    OwnCode(
        "its attentional pooler is code of the package conch, which neither timm nor transformers has",
        f"pip install git+https://github.com/Mahmoodlab/CONCH.git, {ELSEWHERE}",
    ), dim=512,
)  # fmt: skip
CONCH_V15 = _listed(
    "conchv1.5", "MahmoodLab/conchv1_5", "CONCHv1.5, ViT-L/16 with an attentional pooler (Mahmood Lab)",
    no_derivatives(TRIDENT_TABLE),
    OwnCode(
        "its attentional pooler is code that TITAN and TRIDENT bundle",
        f"pip install git+https://github.com/mahmoodlab/TRIDENT.git, {ELSEWHERE}",
    ), dim=768,
)  # fmt: skip
CTRANSPATH = _listed(
    "ctranspath", "MahmoodLab/hest-bench", "CTransPath, Swin-T with a convolutional stem (CHIEF's weights)",
    Licence("GPL-3.0", True, True, True, None, "https://github.com/Xiyue-Wang/TransPath"),
    OwnCode("it is a changed Swin transformer of an old, changed timm", f"pip install timm_ctp, {ELSEWHERE}"),
    dim=768, where=TRIDENT,
)  # fmt: skip
MUSK = _listed(
    "musk", "xiangjx/musk", "MUSK, BEiT-3 ViT-L/16 at 384 px for images and text (Stanford)",
    no_derivatives(TRIDENT_TABLE),
    OwnCode(
        "its architecture is registered by the package musk only",
        f"pip install fairscale git+https://github.com/lilab-stanford/MUSK, {ELSEWHERE}",
    ), dim=1024,
)  # fmt: skip
KEEP = _listed(
    "keep", "Astaxanthin/KEEP", "KEEP, ViT-L/16 aligned with disease knowledge", mit(TRIDENT_TABLE),
    OwnCode(REMOTE, f"if you trust that code, {ELSEWHERE}"), dim=768, gated=False,
)  # fmt: skip
HIBOU_B = _listed(
    "hibou-b", "histai/hibou-b", "Hibou-B, DINOv2 ViT-B/14 with 4 registers (HistAI)",
    Licence("Apache-2.0", True, True, True, False, "https://github.com/HistAI/hibou"),
    OwnCode(REMOTE, f"if you trust that code, {ELSEWHERE}"), gated=False, where="https://huggingface.co/histai/hibou-L",
)  # fmt: skip
HIBOU_L = _listed(
    "hibou-l", "histai/hibou-L", "Hibou-L, DINOv2 ViT-L/14 with 4 registers (HistAI)",
    apache_gated("https://github.com/HistAI/hibou"),
    OwnCode(REMOTE, f"if you trust that code, {ELSEWHERE}"), where="https://huggingface.co/histai/hibou-L",
)  # fmt: skip
GENBIO_PATHFM = _listed(
    "genbio-pathfm", "genbio-ai/genbio-pathfm", "GenBio-PathFM, one pass per colour channel (GenBio AI)",
    Licence("GenBio AI Community", None, None, None, None,
            "https://huggingface.co/genbio-ai/genbio-pathfm/blob/main/LICENSE.txt"),
    OwnCode(
        "it embeds each colour channel by itself with code that TRIDENT bundles",
        f"pip install git+https://github.com/mahmoodlab/TRIDENT.git, {ELSEWHERE}",
    ), dim=4608, gated=False,
)  # fmt: skip
RUDOLFV_2 = _listed(
    "rudolfv-2", "Aignostics/RudolfV-2", "RudolfV-2, 1 B parameters (Aignostics)",
    Licence("see card", None, None, None, None, "https://huggingface.co/Aignostics/RudolfV-2-S"),
    OwnCode(REMOTE, f"if you trust that code, {ELSEWHERE}"), where="https://huggingface.co/Aignostics/RudolfV-2-S",
)  # fmt: skip
BEPH = _listed(
    "beph", "Zhcyoung/BEPH", "BEPH, BEiT-v2 ViT-B/16 on TCGA",
    Licence("not stated", None, None, None, None, "https://github.com/Zhcyoung/BEPH"),
    OwnCode(
        "its weights are a checkpoint of mmselfsup with names of its own, on a file share and not on the hub",
        f"install mmselfsup as its README says, {ELSEWHERE}",
    ), gated=False, where="https://github.com/Zhcyoung/BEPH/blob/01f56751e2e9d045ef813e7bead17c5f2ad37831/README.md",
)  # fmt: skip
OWN_CODE = (CONCH, CONCH_V15, CTRANSPATH, MUSK, KEEP, HIBOU_B, HIBOU_L, GENBIO_PATHFM, RUDOLFV_2, BEPH)
