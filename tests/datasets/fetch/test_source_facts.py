from __future__ import annotations

import string

import pytest

from histotune.datasets.fetch.fetch import SPEC_NAMES, origins_of
from histotune.datasets.fetch.fetch_breakhis import count_images, missing_images
from histotune.datasets.fetch.source import BREAKHIS_COUNTS, FILES, PCAM_ROWS
from histotune.datasets.pcam_files import HDF5_PATTERN
from histotune.datasets.read import dataset_spec

from ..fakes import full_size_names


def test_every_published_sum_has_its_form_and_none_comes_twice() -> None:
    files = FILES["pcam"]
    assert len(files) == 9
    sums = [file.checksums.md5 for file in files] + [file.unpacked.checksums.md5 for file in files if file.unpacked]
    sums += [file.checksums.sha256 for file in files if file.checksums.sha256]
    assert len(sums) == 9 + 6 + 6
    assert len(set(sums)) == len(sums)
    for value in sums:
        assert value is not None
        assert len(value) in (32, 64)
        assert set(value) <= set(string.hexdigits.lower())


def test_the_names_are_those_that_the_reader_knows() -> None:
    for file in FILES["pcam"]:
        assert HDF5_PATTERN.fullmatch(file.name)
        assert HDF5_PATTERN.fullmatch(file.final_name)
        assert not file.final_name.endswith(".gz")


def test_an_unpacked_file_fits_its_limit() -> None:
    for file in FILES["pcam"]:
        if file.unpacked is not None:
            part = next(part for part in PCAM_ROWS if f"_{part}_" in file.name)
            per_row = 96 * 96 * 3 if file.name.endswith("_x.h5.gz") else 8
            assert PCAM_ROWS[part] * per_row < file.unpacked.limit_bytes
            assert file.about_bytes < file.unpacked.limit_bytes


def test_counts_of_breakhis_add_up_and_the_full_list_of_names_meets_them() -> None:
    assert sum(BREAKHIS_COUNTS.values()) == 7_909
    names = full_size_names()
    assert missing_images(count_images(names)) == ""
    assert missing_images(count_images(names + names)) == "", "a copy counts once"
    assert "of 625" in missing_images(count_images(names[1:]))


@pytest.mark.parametrize("dataset", SPEC_NAMES)
def test_every_source_is_https_and_has_a_way_by_hand(dataset: str) -> None:
    assert dataset_spec(SPEC_NAMES[dataset]).licence
    origins = origins_of(dataset)
    assert origins[0].source.name == "home"
    names = [origin.source.name for origin in origins]
    for origin in origins:
        assert origin.source.others == tuple(name for name in names if name != origin.source.name)
        assert origin.dataset == dataset
        assert origin.source.manual_url.startswith("https://")
        assert origin.source.manual_put
    for file in (*FILES["pcam"], *FILES["breakhis"]):
        assert all(url.startswith("https://") and "?" not in url for url in file.urls)
