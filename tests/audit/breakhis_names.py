"""BreakHis's real 40X names of the four classes that eva and THUNDER use, and some of the other classes."""

from __future__ import annotations

from pathlib import Path

from tests.datasets.fakes import png_header, tree_folder, write_image

# Patients with their number of 40X images, and the validation ids that kaiko-eva and THUNDER share (their sources).
IMAGES_40X = {
    "F": "14134 36, 14134E 29, 25197 22, 29960AB 18, 23060CD 14, 23060AB 23, 9133 26, 23222AB 17, 21998CD 37, "
    "21998EF 31",
    "TA": "21978AB 16, 3411F 16, 16184 39, 15275 12, 16184CD 35, 19854C 16, 13200 15",
    "DC": "18650 29, 15572 23, 2980 20, 15792 14, 13412 32, 6241 32, 11520 25, 5694 22, 5695 23, 16716 38, 2773 30, "
    "17614 39, 2523 10, 4364 1, 14015 18, 16336 13, 15696 23, 12312 32, 4372 21, 11031 14, 16188 24, 9461 26, 5287 23, "
    "11951 27, 16601 12, 13993 37, 10926 11, 20629 36, 16448 11, 16875 14, 3909 26, 17915 26, 2985 20, 17901 26, "
    "20636 25, 8168 10, 14946 31, 14926 20",
    "MC": "18842 15, 13418DE 15, 18842D 16, 13413 29, 16456 46, 12773 26, 10147 15, 19979 26, 19979C 17",
}
VALID = {"18842D", "19979", "15275", "15792", "16875", "3909", "5287", "16716", "2773", "5695", "16184CD", "23060CD",
         "21998CD", "21998EF"}  # fmt: skip
OTHERS = {"A": "22549AB 3, 22549CD 2, 22549G 2, 29960CD 4", "PT": "21998AB 5", "LC": "13412 6, 15570 3, 15570C 2",
          "PC": "9146 2"}  # fmt: skip


def write_names(root: Path) -> Path:
    """Write a tree of bare PNG headers: any look at a pixel would fail."""
    for tumour, patients in (IMAGES_40X | OTHERS).items():
        for patient in patients.split(", "):
            slide, n = patient.split()
            for image in range(int(n)):
                letter = "B" if tumour in ("A", "F", "PT", "TA") else "M"
                name = f"SOB_{letter}_{tumour}-14-{slide}-40-{image + 1:03d}.png"
                write_image(tree_folder(root, name), name, png_header())
    return root
