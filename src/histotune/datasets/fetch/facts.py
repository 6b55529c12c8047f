"""Where the data sets live and what is published about their files."""

from __future__ import annotations

from histotune.datasets.fetch.source import Checksums, RemoteFile, Source, Unpacked

BREAKHIS_ARCHIVE = "BreaKHis_v1.tar.gz"
BREAKHIS_FOLDER = "BreaKHis_v1"
BREAKHIS_PAGE = "https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/"
PCAM_PAGE = "https://zenodo.org/records/2546921"

# Images per magnification and class (Spanhol et al. 2016, table 1): the only published facts about the archive.
BREAKHIS_COUNTS = {
    ("40X", "B"): 625, ("40X", "M"): 1370, ("100X", "B"): 644, ("100X", "M"): 1437,
    ("200X", "B"): 623, ("200X", "M"): 1390, ("400X", "B"): 588, ("400X", "M"): 1232,
}  # fmt: skip
BREAKHIS_ABOUT_BYTES = 4_300_000_000
BREAKHIS_LIMIT_BYTES = 12_000_000_000  # 7,909 PNG of at most 700 x 460 x 3 bytes and a filter byte a row: 7.7 GB
BREAKHIS_LIMIT_MEMBERS = 30_000

BREAKHIS_FILES = (
    RemoteFile(
        name=BREAKHIS_ARCHIVE,
        urls=(
            f"https://web.inf.ufpr.br/vri/databases/{BREAKHIS_ARCHIVE}",
            f"https://www.inf.ufpr.br/vri/databases/{BREAKHIS_ARCHIVE}",
        ),
        about_bytes=BREAKHIS_ABOUT_BYTES,
        exact=False,
        checksums=Checksums(),
    ),
)

PCAM_ROWS = {"train": 262_144, "valid": 32_768, "test": 32_768}
TILE_BYTES = 96 * 96 * 3
_STEM = "camelyonpatch_level_2_split_"

# MD5 of the .gz and of what they hold: the data set's page and torchvision's PCAM; lengths and SHA-256:
# tensorflow/datasets, url_checksums/patch_camelyon.txt.
_PCAM_GZ = {
    "train_x": (6_421_353_462, "1571f514728f59376b705fc836ff4b63",
                "d619e741468a7ab35c7e4a75e6821b7e7e6c9411705d45708f2a0efc8960656c", "01844da899645b4d6f84946d417ba453"),
    "train_y": (21_378, "35c2d7259d906cfc8143347bb8e05be7",
                "b74126d2c01b20d3661f9b46765d29cf4e4fba6faba29c8e0d09d406331ab75a", "0781386bf6c2fb62d58ff18891466aca"),
    "valid_x": (805_965_320, "d8c2d60d490dbd479f8199bdfa0cf6ec",
                "f82ee1670d027b4ec388048d9eabc2186b77c009655dae76d624c0ecb053ccb2", "81cf9680f1724c40673f10dc88e909b1"),
    "valid_y": (3_038, "60a7035772fbdb7f34eb86d4420cf66a",
                "ce1ae30f08feb468447971cfd0472e7becd0ad96d877c64120c72571439ae48c", "94d8aacc249253159ce2a2e78a86e658"),
    "test_x": (800_875_929, "d5b63470df7cfa627aeec8b9dc0c066e",
               "79174c2201ad521602a5888be8f36ee10875f37403dd3f2086caf2182ef87245", "2614b2e6717d6356be141d9d6dbfcb7e"),
    "test_y": (3_040, "2b85f58b927af9964a4c15b8f7e8f179",
               "0a522005fccc8bbd04c5a117bfaf81d8da2676f03a29d7499f71d0a0bd6068ef", "11ed647efe9fe457a4eb45df1dba19ba"),
}  # fmt: skip
_PCAM_META_MD5 = {
    "train": "5a3dd671e465cfd74b5b822125e65b0a",
    "valid": "3455fd69135b66734e1008f3af684566",
    "test": "67589e00a4a37ec317f2d1932c7502ca",
}
_META_BYTES_PER_ROW = 60  # an estimate: no length of the tables is published

HUB_REPOSITORY = "1aurent/PatchCamelyon"
BREAKHIS_KAGGLE = "ambarish/breakhis"
PCAM_KAGGLE = "histopathologic-cancer-detection"

BREAKHIS_SOURCES = (
    Source(
        "home",
        "the data set's home at the Federal University of Parana",
        BREAKHIS_PAGE,
        BREAKHIS_ARCHIVE,
        BREAKHIS_ABOUT_BYTES,
        4_400_000_000,
        others=("kaggle",),
    ),
    Source(
        "kaggle",
        f"Kaggle's copy {BREAKHIS_KAGGLE}, with the authors' folds",
        f"https://www.kaggle.com/datasets/{BREAKHIS_KAGGLE}",
        "archive.zip",
        4_300_000_000,
        4_400_000_000,
        others=("home",),
    ),
)
PCAM_SOURCES = (
    Source(
        "home",
        "the data set's home, Zenodo record 2546921",
        PCAM_PAGE,
        "the .h5.gz and meta.csv files",
        8_050_000_000,
        9_080_000_000,
        others=("hub", "kaggle"),
    ),
    Source(
        "hub",
        f"the copy in parquet on the Hugging Face hub, {HUB_REPOSITORY}",
        f"https://huggingface.co/datasets/{HUB_REPOSITORY}",
        "its folder data",
        7_639_680_898,
        7_639_680_898,
        "point --data to it (this way nothing is verified)",
        ("home", "kaggle"),
    ),
    Source(
        "kaggle",
        f"Kaggle's copy in TIFF without duplicates and slides, {PCAM_KAGGLE}",
        f"https://www.kaggle.com/competitions/{PCAM_KAGGLE}/data",
        f"{PCAM_KAGGLE}.zip",
        6_800_000_000,
        7_800_000_000,
        others=("home", "hub"),
    ),
)


def pcam_files() -> tuple[RemoteFile, ...]:
    """Return PatchCamelyon's files, the small ones first, so that what can fail early does."""
    tables = [_meta(part) for part in PCAM_ROWS]
    labels = [_gz(f"{part}_y", 8 * rows) for part, rows in PCAM_ROWS.items()]
    pixels = [_gz(f"{part}_x", TILE_BYTES * PCAM_ROWS[part]) for part in ("test", "valid", "train")]
    return (*tables, *labels, *pixels)


def _gz(key: str, content_bytes: int) -> RemoteFile:
    """Return a .h5.gz; HDF5 adds little to its content, so that a stream far beyond it is no such file."""
    size_bytes, md5, sha256, unpacked_md5 = _PCAM_GZ[key]
    name = f"{_STEM}{key}.h5"
    unpacked = Unpacked(name, Checksums(md5=unpacked_md5), limit_bytes=content_bytes + content_bytes // 20 + (1 << 20))
    return RemoteFile(f"{name}.gz", (_zenodo(f"{name}.gz"),), size_bytes, True, Checksums(md5, sha256), unpacked)


def _meta(part: str) -> RemoteFile:
    name = f"{_STEM}{part}_meta.csv"
    about_bytes = _META_BYTES_PER_ROW * PCAM_ROWS[part]
    return RemoteFile(name, (_zenodo(name),), about_bytes, False, Checksums(md5=_PCAM_META_MD5[part]))


def _zenodo(name: str) -> str:
    return f"{PCAM_PAGE}/files/{name}"
