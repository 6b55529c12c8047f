"""The authors' folds in both shapes, tolerant of how the files are written, strict about what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.named import named_split
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError
from tests.datasets.fakes import tree_folder, write_image

# Ten patients of the authors; 22549AB and 22549CD are blocks of one accession.
PATIENTS = [("B", "A", "22549AB"), ("B", "A", "22549CD"), *(("B", "F", f"{3000 + i}") for i in range(3)),
            *(("M", "DC", f"{4000 + i}") for i in range(5))]  # fmt: skip
NAMES = [
    f"SOB_{letter}_{tumour}-14-{number}-{magnification}-{image:03d}"
    for letter, tumour, number in PATIENTS
    for magnification in (40, 400)
    for image in (1, 2)
]
Tests = Callable[[int, str], bool]


def is_tested(fold: int, name: str) -> bool:
    """Each patient is tested in one fold: a cross-validation."""
    return [number for _, _, number in PATIENTS].index(name.split("-")[2]) % 5 == fold - 1


def overlaps(fold: int, name: str) -> bool:
    """Three of ten patients are tested in every fold, as in the real files: test parts overlap."""
    place = [number for _, _, number in PATIENTS].index(name.split("-")[2])
    return (place + fold) % 10 < 3


def rows(tested: Tests) -> list[tuple[int, str, str, str]]:
    return [
        (fold, name.split("-")[3], "test" if tested(fold, name) else "train", f"{name}.png")
        for fold in range(1, 6)
        for name in NAMES
    ]


def write_csv(path: Path, tested: Tests) -> None:
    lines = [
        f"{fold},{mag},{grp},BreaKHis_v1/histology_slides/x/{mag}X/{name}" for fold, mag, grp, name in rows(tested)
    ]
    path.write_text("\n".join(["fold,mag,grp,filename", *lines]) + "\n", encoding="utf-8")


def write_texts(folder: Path, tested: Tests) -> None:
    folder.mkdir(exist_ok=True)
    for fold in range(1, 6):
        lines = [f"{name}|{mag}|{number}|{grp}" for number, mag, grp, name in rows(tested) if number == fold]
        (folder / f"dsfold{fold}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy as on Kaggle: the tree below a folder, room for Folds.csv beside it."""
    for name in NAMES:
        write_image(tree_folder(tmp_path / "BreaKHis_v1", name), f"{name}.png")
    return tmp_path


def read(root: Path) -> TileSet:
    return read_dataset(DatasetConfig(name="breakhis", path=root))


def test_folds_beside_the_data_are_found_and_each_is_a_split_of_its_own(root: Path) -> None:
    write_csv(root / "Folds.csv", overlaps)
    tiles = read(root)
    with pytest.raises(UserError) as caught:
        named_split("authors-5", tiles)
    assert "each fold is a train/test split of its own" in str(caught.value)
    assert "authors-5/fold1, authors-5/fold2" in str(caught.value)
    split = named_split("authors-5/fold4", tiles, allow_leaky=True)
    assert split.name == "authors-5/fold4"
    assert (split.kind, split.unit, split.sides) == ("parts", "tile", ("train", "test"))
    assert all((side == "test") == overlaps(4, tile_id) for tile_id, side in split.side_by_key.items())
    assert len(split.side_by_key) == len(NAMES)
    assert str(root) not in " ".join(split.notes)


def test_both_shapes_say_the_same(root: Path) -> None:
    write_csv(root / "Folds.csv", overlaps)
    write_texts(root / "folds", overlaps)
    tiles = read(root)
    from_csv = named_split(f"authors-5/fold2:{root / 'Folds.csv'}", tiles, allow_leaky=True)
    for place in (root / "folds", root / "folds" / "dsfold3.txt"):
        assert named_split(f"authors-5/fold2:{place}", tiles, allow_leaky=True).split_hash == from_csv.split_hash


def test_a_real_cross_validation_becomes_folds(root: Path) -> None:
    write_texts(root, is_tested)
    tiles = read(root)
    split = named_split("authors-5", tiles, allow_leaky=True)
    assert (split.kind, split.sides) == ("folds", ("0", "1", "2", "3", "4"))
    assert all(is_tested(int(side) + 1, tile_id) for tile_id, side in split.side_by_key.items())


def test_patient_disjoint_is_not_case_disjoint(root: Path) -> None:
    write_csv(root / "Folds.csv", is_tested)
    with pytest.raises(UserError, match=r"1 group lies on two sides of this split \(14-22549\)"):
        named_split("authors-5/fold1", read(root))
    split = named_split("authors-5/fold1", read(root), allow_leaky=True)
    assert split.leaky
    assert "LEAKY: 4 of 8 tiles of test come from groups that also lie on another side" in " ".join(split.notes)
    assert not named_split("authors-5/fold3", read(root)).leaky


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffFold;Mag;Grp;Filename\n1;40;Train;C:\\data\\{0}.png\n1;40;TEST ;{1}.png\n\n",
        "filename\tgroup\tfold\n{0}.png\ttrain\tfold1\n{1}.png\ttest\tfold1\n",
        "{0}.png|40|1|train\n\n{1}.png | 40 | 1 | test \n",
    ],
)
def test_small_differences_of_the_files_do_not_matter(text: str, root: Path) -> None:
    first, second = NAMES[0], NAMES[-1]
    (root / "Folds.csv").write_text(text.format(first, second), encoding="utf-8")
    split = named_split("authors-1/fold1", read(root))
    assert dict(split.side_by_key) == {first: "train", second: "test"}
    assert f"{len(NAMES) - 2} tiles take no part in this split." in split.notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the fold file is empty"),
        ("fold,mag,grp,filename\n", "the fold file lists no image"),
        ("fold,mag,filename\n1,40,x.png\n", "Folds.csv has no column grp"),
        ("fold,mag,grp,filename\n1,40,train,x.png\n1,40,validation,y.png\n", "can't be read at line 3"),
        ("fold,mag,grp,filename\n1,40,train\n", "can't be read at line 2"),
        ("x.png|40|1\n", "can't be read at line 1"),
        ("fold,mag,grp,filename\n1,40,train,a/x.png\n1,40,test,b/x.png\n", "an image on both sides of fold 1"),
        ("fold,mag,grp,filename\n1,40,train,x.png\n1,40,test,y.png\n", "the fold files hold 1 folds, not 5"),
    ],
)
def test_broken_files_give_one_clear_message(text: str, words: str, root: Path) -> None:
    (root / "Folds.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        named_split("authors-5/fold1", read(root))
    assert words in str(caught.value)


def test_binary_rubbish_is_no_fold_file(root: Path) -> None:
    (root / "Folds.csv").write_bytes(b"\xff\xfe\x00\x81" * 50)
    with pytest.raises(UserError, match="this fold file can't be read"):
        named_split("authors-5", read(root))


def test_missing_files_folds_and_images_are_named(root: Path) -> None:
    tiles = read(root)
    with pytest.raises(UserError) as caught:
        named_split("authors-5", tiles)
    assert "not found beside the images" in str(caught.value)
    assert "--split authors-5:PATH/TO/Folds.csv" in str(caught.value)
    with pytest.raises(UserError, match="no fold files here"):
        named_split(f"authors-5:{root / 'nowhere'}", tiles)
    write_csv(root / "Folds.csv", overlaps)
    with pytest.raises(UserError, match="there is no such fold"):
        named_split("authors-5/fold6", tiles)
    other = root / "other.csv"
    other.write_text("fold,mag,grp,filename\n1,40,train,unknown.png\n", encoding="utf-8")
    with pytest.raises(UserError, match="no image of the fold files is among these tiles"):
        named_split(f"authors-1/fold1:{other}", tiles)
