"""The one place where groups are made: what may never lie on two sides of a split."""

from __future__ import annotations


def breakhis_group_id(year: str, slide: str) -> str:
    """Return the case of a BreakHis slide: year and accession number without block letters.

    The authors count 22549AB, 22549CD and 22549G as three patients, but they are blocks of one accession. Accession
    13412 is filed under ductal and under lobular carcinoma, 21998 under fibroadenoma and phyllodes tumour: the same
    case each time. That one accession is one patient is an inference, so these groups are called cases.

    Args:
        year: Two digits, as in the file name.
        slide: Accession number with optional block letters.

    Returns:
        The group id.

    Example:
        >>> breakhis_group_id("14", "22549AB")
        '14-22549'
    """
    return f"{year}-{slide.rstrip('ABCDEFGHIJKLMNOPQRSTUVWXYZ')}"


def breakhis_source_patient_id(class_letter: str, tumour: str, year: str, slide: str) -> str:
    """Return the BreakHis authors' own patient id: the name of the patient's folder in their tree.

    The data set's 82 patients are its 82 patient folders (24 benign, 58 malignant). Their suffixed numbers alone
    make 81, because 13412 has a folder under ductal and one under lobular carcinoma; so the diagnosis belongs to
    the id.

    Args:
        class_letter: ``B`` or ``M``.
        tumour: Tumour type, such as ``DC``.
        year: Two digits.
        slide: Accession number with optional block letters.

    Returns:
        The id that the authors' patient recognition rate averages over.

    Example:
        >>> breakhis_source_patient_id("M", "DC", "14", "13412")
        'SOB_M_DC_14-13412'
    """
    return f"SOB_{class_letter}_{tumour}_{year}-{slide}"


def patch_camelyon_group_id(wsi: str) -> str:
    """Return the group of a PatchCamelyon patch: its Camelyon16 slide.

    Args:
        wsi: The ``wsi`` column of the ``*_meta.csv`` file, such as "camelyon16_train_tumor_033".

    Returns:
        The group id.
    """
    return wsi
