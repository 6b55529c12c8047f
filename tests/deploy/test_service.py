"""A served head says what ``predict`` says, in JSON; everything else is a sentence with the right status."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import histotune as ht
from histotune.deploy.service import ServiceSettings
from tests.deploy.conftest import MLP, Trained, head_of_cases, write_cases
from tests.serving import Served, form, serving


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a head of 40 cases on the colour histogram, which has sets and distances."""
    with serving(head_of_cases(tmp_path_factory.mktemp("cases")), tmp_path_factory.mktemp("cache")) as served:
        yield served


@pytest.fixture(scope="module")
def lite0(trained: Trained, cache: Path) -> Iterator[Served]:
    """Serve a head on a real network, whose logit is a sum over places."""
    with serving(trained("lite0"), cache) as served:
        yield served


def png(side_px: int = 24, level: int = 150) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(level).normal(level, 30, (side_px, side_px, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


# ---- The same numbers ----


def test_answers_are_those_of_predict(cases: Served, tmp_path: Path) -> None:
    write_cases(tmp_path / "new", 10, 7, shift=20.0)
    paths = sorted((tmp_path / "new").glob("*.png"))
    table = ht.predict(cases.live.bundle, [tmp_path / "new" / "tiles.csv"], cache=tmp_path / "cache")
    answer = cases.send("/predict", *((path.name, path.read_bytes()) for path in paths), mpp="0.5")
    assert answer.status == 200, answer.body
    rows = {Path(row["path"]).name: row for row in table.iter_rows(named=True)}
    images = answer.json["images"]
    assert [one["name"] for one in images] == [path.name for path in paths]
    for one in images:
        row = rows[one["name"]]
        for name, value in one["probabilities"].items():
            assert value == pytest.approx(row[f"probability_{name}"], abs=1e-6)
        for name in ("predicted", "decision", "abstains", "far", "other_scale"):
            assert one[name] == row[name], name
        for name in ("threshold", "distance", "input_mpp"):
            assert one[name] == pytest.approx(row[name], abs=1e-6), name
        assert one["set"] == row["set"].split(" | ")
        assert any("abstains" in said for said in one["warnings"]) == row["abstains"]


def test_answers_on_a_real_network_are_those_of_predict_alone_and_together(
    lite0: Served, twenty: list[Path], predicted: Callable[..., np.ndarray]
) -> None:
    expected_NK = predicted(lite0.live.bundle)
    names = lite0.live.bundle.head.class_names
    together = lite0.send("/predict", *((path.name, path.read_bytes()) for path in twenty))
    alone = lite0.send("/predict", (twenty[3].name, twenty[3].read_bytes()))
    found_NK = np.array([[one["probabilities"][name] for name in names] for one in together.json["images"]])
    np.testing.assert_allclose(found_NK, expected_NK, atol=1e-6)
    found_K = [alone.json["images"][0]["probabilities"][name] for name in names]
    np.testing.assert_allclose(found_K, expected_NK[3], atol=1e-6)


def test_a_map_is_that_of_explain_and_adds_up(lite0: Served, twenty: list[Path], tmp_path: Path, cache: Path) -> None:
    index = ht.explain(lite0.live.bundle, twenty[0], tmp_path / "maps", cache=cache)
    row = index.row(0, named=True)
    answer = lite0.send("/explain", (twenty[0].name, twenty[0].read_bytes()))
    assert answer.status == 200, answer.body
    found = answer.json
    for name in ("probability", "logit", "baseline", "cls_term", "map_sum", "cls_share"):
        assert found[name] == pytest.approx(row[name], abs=1e-5), name
    terms = sum(np.sum(window["terms"]) for window in found["windows"])
    assert found["baseline"] + found["cls_term"] + terms == pytest.approx(found["logit"], abs=1e-5)
    assert found["image"]["probabilities"][found["class_name"]] == pytest.approx(found["probability"], abs=1e-5)
    with Image.open(io.BytesIO(base64.b64decode(found["picture_png_base64"]))) as picture:
        assert picture.format == "PNG"
    alone = lite0.send("/explain", (twenty[0].name, twenty[0].read_bytes()), accept="image/png")
    assert alone.headers["content-type"] == "image/png" and alone.body.startswith(b"\x89PNG")


def test_a_head_without_maps_says_why(trained: Trained, cache: Path) -> None:
    with serving(trained("lite0", **MLP), cache) as served:
        answer = served.send("/explain", ("a.png", png()))
        assert answer.status == 409 and "MLP" in answer.json["error"]
        assert "MLP" in served.ask("GET", "/model").json["no_map"]
        assert served.send("/predict", ("a.png", png())).status == 200


def test_requests_of_many_clients_share_batches(lite0: Served, twenty: list[Path]) -> None:
    before, images = lite0.queue.n_batches, lite0.queue.n_images
    data = [path.read_bytes() for path in twenty]
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda one=one: found.append(lite0.send("/predict", ("a.png", one)).status))
        for one in data
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 20
    assert lite0.queue.n_images - images == 20
    assert lite0.queue.n_batches - before < 20


# ---- What is said ----


def test_facts_card_and_description(cases: Served) -> None:
    assert cases.ask("GET", "/health").json["status"] == "ok"
    facts = cases.ask("GET", "/model").json
    assert facts["class_names"] == ["benign", "malignant"] and "not for diagnosis" in facts["use"]
    assert "40 training groups held out in turn" in facts["sets"] and "40 groups" in facts["far"]
    card = cases.ask("GET", "/card")
    assert card.body.decode().endswith("# a card\n") and card.headers["content-type"].startswith("text/markdown")
    described = cases.ask("GET", "/openapi.json").json
    assert set(described["paths"]) == {"/health", "/model", "/card", "/predict", "/explain"}
    answer = described["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["$ref"].endswith("PredictAnswer")
    assert "multipart/form-data" in described["paths"]["/predict"]["post"]["requestBody"]["content"]


def test_far_images_are_warned_of(cases: Served) -> None:
    far = cases.send("/predict", ("a.png", png(level=255)), mpp="0.5").json["images"][0]
    assert far["far"] and "far from what trained" in far["warnings"][0]
    other = cases.send("/predict", ("a.png", png()), mpp="2").json["images"][0]
    assert other["other_scale"] and "um/px" in " ".join(other["warnings"])
    unknown = cases.send("/predict", ("a.png", png())).json["images"][0]
    assert unknown["other_scale"] is None and "unknown" in " ".join(unknown["warnings"])


def test_a_training_tile_finds_itself_among_the_nearest_tiles(cases: Served, tmp_path: Path) -> None:
    table = write_cases(tmp_path / "again", 40, 0)  # the very tiles that trained it
    data = (table.parent / "c0_003_1.png").read_bytes()
    found = cases.send("/predict", ("a.png", data)).json["images"][0]["nearest"]
    assert found[0]["sha256"] == hashlib.sha256(data).hexdigest() and found[0]["distance"] < 0.05
    assert [one["distance"] for one in found] == sorted(one["distance"] for one in found) and len(found) == 3


def test_every_answer_carries_the_policy(cases: Served) -> None:
    for answer in (cases.ask("GET", "/"), cases.ask("GET", "/health"), cases.ask("GET", "/nowhere")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    assert "default-src 'none'" in cases.ask("GET", "/").headers["content-security-policy"]
    for place in ("/docs", "/redoc"):  # they would load scripts from elsewhere
        assert cases.ask("GET", place).status == 404


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:\\x.png", "a\x1b[31m.png", "n" * 900, ""])
def test_a_name_is_never_a_path(cases: Served, name: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = cases.send("/predict", (name, png()))
    assert answer.status == 200 or (answer.status == 400 and not name)
    if answer.status == 200:
        shown = answer.json["images"][0]["name"]
        assert len(shown) <= 200 and shown.isprintable()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/card/../../x", "//etc/passwd"])
def test_no_path_leads_to_a_file(cases: Served, path: str) -> None:
    answer = cases.ask("GET", path)
    assert answer.status == 404 and "There is nothing at" in answer.json["error"]


def test_other_methods_hosts_and_sites_are_refused(cases: Served) -> None:
    assert cases.ask("GET", "/predict").status == 405
    other = cases.ask("GET", "/health", headers={"Host": "evil.example"})
    assert other.status == 403 and "evil.example" in other.json["error"]
    assert cases.ask("GET", "/health", headers={"Host": "localhost:1"}).status == 200
    body, kind = form([("image", "a.png", png())])
    crossed = cases.ask("POST", "/predict", body, {"Content-Type": kind, "Sec-Fetch-Site": "cross-site"})
    assert crossed.status == 403


def test_what_breaks_inside_is_a_sentence_without_a_traceback(
    cases: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("secret /home/somebody")

    monkeypatch.setattr(cases.live.predictor, "rows", breaks)
    answer = cases.send("/predict", ("a.png", png()))
    assert answer.status == 500
    assert answer.json == {"error": "Something went wrong in this server; its own log says what."}
    assert "secret /home/somebody" in caplog.text
    monkeypatch.undo()
    assert cases.send("/predict", ("a.png", png())).status == 200, "the network's thread outlives it"


# ---- Nothing leaves, nothing is kept ----


def test_nothing_is_written_and_nothing_leaves_this_machine(
    lite0: Served, twenty: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    outside: list[object] = []
    connect, find = socket.socket.connect, socket.getaddrinfo

    def connects(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):  # type: ignore[index]
            outside.append(address)
            raise OSError("refused by the test")
        connect(self, address)  # type: ignore[arg-type]

    def finds(host: object, *more: object, **named: object) -> object:
        if host not in ("127.0.0.1", "localhost", "::1", None):
            outside.append(host)
            raise OSError("refused by the test")
        return find(host, *more, **named)  # type: ignore[arg-type]

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watching and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+"):
            opened.append(str(arguments[0]))

    import sys

    watching = True
    sys.addaudithook(audit)
    monkeypatch.setattr(socket.socket, "connect", connects)
    monkeypatch.setattr(socket, "getaddrinfo", finds)
    large = io.BytesIO()
    Image.effect_noise((1500, 1500), 80).convert("RGB").save(large, "PNG")  # more than Starlette keeps in memory
    assert len(large.getvalue()) > 2**21
    for place in ("/predict", "/explain"):
        assert lite0.send(place, ("a.png", large.getvalue())).status == 200
        assert lite0.send(place, (twenty[0].name, twenty[0].read_bytes())).status == 200
    for place in ("/", "/health", "/model", "/card", "/openapi.json"):
        assert lite0.ask("GET", place).status == 200
    watching = False
    assert outside == []
    assert [name for name in opened if "matplotlib" not in name] == []


def test_limits_hold_before_anything_is_decoded(trained: Trained, cache: Path) -> None:
    with serving(trained("lite0"), cache, ServiceSettings(max_upload_mib=0.25)) as served:
        noise = io.BytesIO()
        Image.effect_noise((600, 600), 80).convert("RGB").save(noise, "PNG")
        answer = served.send("/predict", ("a.png", noise.getvalue()))
        assert answer.status == 413 and "at most" in answer.json["error"]
        assert served.send("/predict", ("a.png", png())).status == 200
