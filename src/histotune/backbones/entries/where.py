"""Pages that several entries cite."""

TRIDENT = (
    "https://github.com/mahmoodlab/TRIDENT/blob/0120b8bf2b3e8f26af19725091d2137f06abdcb9/"
    "trident/patch_encoder_models/load.py"
)
TRIDENT_TABLE = "https://github.com/mahmoodlab/TRIDENT/blob/0120b8bf2b3e8f26af19725091d2137f06abdcb9/README.md"
EVA = (
    "https://github.com/kaiko-ai/eva/tree/73b61a797bfda8daf232f6abea2bc87ac614589c/"
    "src/eva/vision/models/networks/backbones/pathology"
)
WSISTREAM = "https://github.com/RamonKaspar/wsistream/tree/954550be7f8720b0d6be62a56711a1764cfb7c02/docs/recipes"
DINOV2_README = "https://github.com/facebookresearch/dinov2/blob/04b91003ba93a81348cbf31bf89a9338714d5ee5/README.md"
DINOV3_README = "https://github.com/facebookresearch/dinov3/blob/29ea5142c9d4dc92772a7b83127131c496aac260/README.md"
UNI_README = "https://github.com/mahmoodlab/UNI/blob/0155974181276369e04c140c5890bf488f59238e/README.md"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BIOPTIMUS_MEAN = (0.707223, 0.578729, 0.703617)
BIOPTIMUS_STD = (0.211883, 0.230117, 0.177517)
