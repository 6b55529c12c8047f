from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from histotune.audit.verdicts import Audit, AuditedSplit, AuditFinding, AuditTable, Cluster
from histotune.images.config import LoaderConfig
from histotune.report.pictures import AuditPicture, audit_pictures
from histotune.report.study_pages import MAX_ROWS, cell_text, render_audit_page, write_audit
from histotune.report.tables import AUDIT_LAYOUT, audit_table
from tests.audit.made import png_tiles, tissue
from tests.report.test_page import LOADING, Page

LOADER = LoaderConfig()
JPEG = b"\xff\xd8 a picture"


def made_audit(word: str = "made") -> Audit:
    clusters = tuple(Cluster((f"{word}{i}a", f"{word}{i}b"), 2, f"2 groups {word}") for i in range(9))
    table = AuditTable(f"Table {word}", ("group id", "tiles"), tuple((f"{word}{i}", i) for i in range(MAX_ROWS + 3)))
    findings = (
        AuditFinding("exact-duplicates", f"Exact {word}", "error", f"Nine clusters {word}.", 9, 18, ("a",),
                     f"Do {word}.", clusters, (table,)),
        AuditFinding("blank", "Blank tiles", "note", "One blank tile.", 1, 1, (f"{word}0a",)),
        AuditFinding("sizes", "Tile sizes", "ok", "Every tile is alike."),
    )  # fmt: skip
    return Audit(
        name=word, title=f"The {word} set", synthetic=False, licence=f"CC BY {word}", citation=f"Authors of {word}",
        n_tiles=1200, n_groups=30, group=f"a case of {word}", split=AuditedSplit(word, "hash", True, (f"note {word}",)),
        settings={"quick": False, "word": word}, findings=findings, tables=(table,), notes=(f"Skipped {word}.",),
    )  # fmt: skip


def made_pictures(word: str = "made") -> tuple[AuditPicture, ...]:
    names = [(number, letter) for number in (1, 2) for letter in "ab"]
    clusters = (AuditPicture("exact-duplicates", n, f"{word}{n}{letter}", f"group {word}", JPEG) for n, letter in names)
    return (*clusters, AuditPicture("blank", 0, f"{word}0a", "group unknown", JPEG))


@pytest.fixture(scope="module")
def html() -> str:
    return render_audit_page(made_audit(), made_pictures(), "histotune data audit made")


def test_the_page_loads_nothing_and_runs_its_own_script_alone(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in LOADING:
                assert (value or "").startswith(("#", "data:image/jpeg;base64,")), (tag, name, value)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    assert page.all("script") == [{}]


def test_the_security_policy_allows_this_style_and_this_script(html: str) -> None:
    policy = next(meta["content"] for meta in Page(html).all("meta") if meta.get("http-equiv")) or ""
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
        assert "url(" not in text
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_everything_a_user_supplies_is_escaped() -> None:
    evil = "<script>alert('x')</script>\"'&"
    page = Page(render_audit_page(made_audit(evil), made_pictures(evil), evil))
    assert page.all("script") == [{}]
    assert page.text.count(evil) > 20
    assert any(evil in (image["alt"] or "") for image in page.all("img"))


def test_findings_stand_with_verdict_advice_pictures_and_credit(html: str) -> None:
    page = Page(html)
    text = " ".join(page.text.split())
    for words in ("1 error, 1 note, 1 ok.", "Nine clusters made.", "What to do: Do made.", "2 tiles, 2 groups made",
                  "Shown: 2 of 9 clusters", "Every tile is alike.", "LEAKY", "note made", "Skipped made.",
                  "Tiles shown: The made set, CC BY made, cropped and resized. Authors of made",
                  "the first 500 of 503"):  # fmt: skip
        assert words in text, words
    assert len(page.all("img")) == 5
    sections = [section.get("id") for section in page.all("section")]
    assert "sizes" not in sections
    assert sections[:3] == ["findings", "exact-duplicates", "blank"]


def test_synthetic_tissue_is_called_so() -> None:
    page = Page(render_audit_page(replace(made_audit(), synthetic=True), made_pictures(), ""))
    assert "Rendered tissue, not patients" in page.text
    assert "(SYNTHETIC), CC BY made" in page.text


def test_an_audit_without_findings_pictures_or_split_has_a_page() -> None:
    bare = replace(made_audit(), findings=(), tables=(), notes=(), split=None)
    page = Page(render_audit_page(bare, (), ""))
    assert "no split checked" in page.text
    assert "Tiles shown" not in page.text


def test_cells_are_plain() -> None:
    assert [cell_text(value) for value in (1234, 0.25, None, "a")] == ["1,234", "0.25", "–", "a"]


def test_the_folder_holds_page_and_json(tmp_path: Path) -> None:
    write_audit(made_audit(), made_pictures(), tmp_path / "new" / "folder")
    read = json.loads((tmp_path / "new" / "folder" / "audit.json").read_text(encoding="utf-8"))
    assert (read["verdict"], read["n_tiles"]) == ("error", 1200)
    assert len(read["findings"][0]["tables"][0]["rows"]) == MAX_ROWS + 3
    assert (tmp_path / "new" / "folder" / "audit.html").is_file()


def test_the_terminal_table_says_all_findings_without_reading_markup() -> None:
    audit = made_audit("[red]x")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(audit_table(audit).as_rich(AUDIT_LAYOUT))
    text = console.export_text()
    assert "Nine clusters [red]x." in text
    assert "LEAKY" in text
    assert text.count("error") == 1
    assert "Do [red]x." in text


def test_pictures_are_read_and_a_broken_tile_is_left_out(tmp_path: Path) -> None:
    tiles = png_tiles(tmp_path, [tissue(seed) for seed in range(3)], split=["train", "test", None])
    Path(tiles.table["path"][1]).write_bytes(b"")
    cluster = Cluster(("t000", "t001", "t002"), 3, "one group")
    finding = AuditFinding("exact-duplicates", "", "note", "", clusters=(cluster,))
    pictures = audit_pictures(replace(made_audit(), findings=(finding,)), tiles, None, LOADER)
    assert [(picture.tile_id, picture.where) for picture in pictures] == [
        ("t000", "group g0, side train"), ("t002", "group g2")]  # fmt: skip
    assert all(picture.jpeg.startswith(b"\xff\xd8") for picture in pictures)
