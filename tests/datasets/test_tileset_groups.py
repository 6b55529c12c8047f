"""Groups: blocks of one accession are one case; the authors' ids stay beside it."""

from __future__ import annotations

import pytest

from histotune.datasets.tileset import breakhis_group_id, breakhis_source_patient_id, patch_camelyon_group_id
from tests.datasets.fakes import SLIDES_BY_TUMOUR


@pytest.mark.parametrize(
    ("slide", "group"),
    [("22549AB", "14-22549"), ("22549G", "14-22549"), ("22549", "14-22549"), ("9133", "14-9133")],
)
def test_block_letters_do_not_make_a_case(slide: str, group: str) -> None:
    assert breakhis_group_id("14", slide) == group


def test_the_year_belongs_to_the_accession() -> None:
    assert breakhis_group_id("14", "100") != breakhis_group_id("15", "100")


def test_both_diagnoses_of_one_accession_are_one_case_and_two_patients_of_the_authors() -> None:
    assert breakhis_source_patient_id("M", "DC", "14", "13412") == "SOB_M_DC_14-13412"
    assert breakhis_source_patient_id("M", "LC", "14", "13412") == "SOB_M_LC_14-13412"
    assert breakhis_group_id("14", "13412") == "14-13412"


def test_eighty_two_folders_are_eighty_two_patients() -> None:
    patients = [(tumour, slide) for tumour, slides in SLIDES_BY_TUMOUR.items() for slide in slides]
    ids = {breakhis_source_patient_id("M", tumour, "14", slide) for tumour, slide in patients}
    assert len(ids) == 82
    assert len({slide for _, slide in patients}) == 81


def test_a_patch_belongs_to_its_slide() -> None:
    assert patch_camelyon_group_id("camelyon16_train_tumor_033") == "camelyon16_train_tumor_033"
