"""What licences let one pass on: the clause is named, and what is not known is not allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig, catalog_entries
from histotune.deploy.sharing import notice_lines, sharing_of

UNI = next(entry.spec for entry in catalog_entries() if entry.name == "uni")


def test_free_licences_refuse_nothing() -> None:
    found = sharing_of(find_backbone(BackboneConfig(name="lite0")))
    assert (found.weights_refusal, found.head_refusal) == ("", "")


@pytest.mark.parametrize("entry", catalog_entries(), ids=lambda entry: entry.name)
def test_every_backbone_of_the_catalog_has_an_answer_that_follows_from_its_licence(entry: object) -> None:
    spec, licence = entry.spec, entry.licence  # type: ignore[attr-defined]
    plain, tuned = sharing_of(replace(spec, adapter="")), sharing_of(replace(spec, adapter="somebody/adapter"))
    assert bool(plain.weights_refusal) == (licence.share_weights is not True)
    assert bool(tuned.weights_refusal) == (licence.share_derivatives is not True)
    assert bool(plain.head_refusal) == (licence.outputs_restricted is True)
    if plain.weights_refusal:
        assert licence.name in plain.weights_refusal and licence.source in plain.weights_refusal


def test_the_clause_is_named() -> None:
    spec = UNI
    assert "no copy of the model may be passed on" in sharing_of(spec).weights_refusal
    assert "2(a)(1)(B)" in sharing_of(replace(spec, adapter="somebody/adapter")).weights_refusal


def test_the_notice_says_own_use_where_weights_may_not_be_passed_on() -> None:
    spec = UNI
    text = "\n".join(notice_lines(spec, sharing_of(spec), with_weights=True))
    assert "FOR OWN USE ONLY" in text and "CC-BY-NC-ND-4.0" in text
    free = find_backbone(BackboneConfig(name="lite0"))
    assert "OWN USE" not in "\n".join(notice_lines(free, sharing_of(free), with_weights=True))
