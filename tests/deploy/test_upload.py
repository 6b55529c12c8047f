"""Whatever is sent, the answer is a sentence with a status of the client's fault, and the server goes on."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.deploy.upload import MAX_FILES, printable, upload_limit
from tests.deploy.conftest import head_of_cases
from tests.serving import Answered, Served, form, serving_process

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
Malformed = Callable[[Served, np.random.Generator], Answered]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run the command."""
    folder = tmp_path_factory.mktemp("served")
    head_of_cases(folder)
    with serving_process(folder / "head", folder / "cache") as found:
        yield found


def image(rng: np.random.Generator, kind: str = "PNG", side_px: int = 48, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)).convert(mode).save(out, kind)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def file_of(data: bytes, name: str = "a.png", field: str = "image", **fields: str) -> Callable[[Served], Answered]:
    def send(served: Served) -> Answered:
        body, kind = form([(field, name, data)], fields)
        return served.ask("POST", "/predict", body, {"Content-Type": kind})

    return send


def several_frames(rng: np.random.Generator, kind: str) -> bytes:
    out = io.BytesIO()
    pages = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]
    pages[0].save(out, kind, save_all=True, append_images=pages[1:])
    return out.getvalue()


def truncated(served: Served, rng: np.random.Generator) -> Answered:
    data = image(rng, FORMATS[rng.integers(len(FORMATS))])
    return file_of(data[: int(rng.integers(1, len(data) // 2))])(served)


def random_bytes(served: Served, rng: np.random.Generator) -> Answered:
    start = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\x00", b"BM", b"RIFF\x10\x00\x00\x00WEBP")
    return file_of(start[rng.integers(len(start))] + rng.bytes(int(rng.integers(1, 5000))))(served)


def too_many_pixels(served: Served, rng: np.random.Generator) -> Answered:
    zeros = zlib.compress(bytes(2**20), 9)
    sides = ((60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (8001, 8001), (2**31 - 1, 2**31 - 1))
    return file_of(bomb(*sides[rng.integers(len(sides))], zeros))(served)


def not_enough_pixels(served: Served, rng: np.random.Generator) -> Answered:
    return file_of(bomb(7000, 7000, zlib.compress(bytes(1000))))(served)


def wrong_type(served: Served, rng: np.random.Generator) -> Answered:
    gif = io.BytesIO()
    Image.new("P", (8, 8)).save(gif, "GIF")
    kinds = (b"%PDF-1.7\n", b"PK\x03\x04" + rng.bytes(50), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
             gif.getvalue(),
             b"<html><script>alert(1)</script>", b"version https://git-lfs.github.com/spec/v1\n",
             b"", b"\x00")  # fmt: skip
    return file_of(kinds[rng.integers(len(kinds))], "a.png")(served)


def odd_image(served: Served, rng: np.random.Generator) -> Answered:
    wide = io.BytesIO()
    Image.fromarray(rng.integers(0, 2**16, (8, 8), dtype=np.uint16)).save(wide, "PNG")
    kinds = (several_frames(rng, "TIFF"), several_frames(rng, "WEBP"), image(rng, "TIFF", mode="CMYK"), wide.getvalue())
    return file_of(kinds[rng.integers(len(kinds))])(served)


def wrong_fields(served: Served, rng: np.random.Generator) -> Answered:
    good = image(rng)
    sends = (
        file_of(good, field="picture"), file_of(good, mpp="fast"), file_of(good, mpp="-1"), file_of(good, mpp="nan"),
        file_of(good, path="/etc/passwd"), file_of(good, mpp="9" * 5000), lambda one: one.send("/predict"),
        lambda one: one.send("/predict", *[("a.png", good)] * (MAX_FILES + 1)),
        lambda one: one.send("/predict", **{f"f{n}": "1" for n in range(20)}),
        lambda one: one.send("/predict", ("a.png", good), ("b.png", good[:100])),
    )  # fmt: skip
    return sends[rng.integers(len(sends))](served)


def wrong_form(served: Served, rng: np.random.Generator) -> Answered:
    noise, good = rng.bytes(300), image(rng)
    kinds = (
        (b"{" * 900, "application/json"), (good, "image/png"), (good, ""), (noise, "multipart/form-data"),
        (noise, "multipart/form-data; boundary=x"), (b"--x\r\n\r\n" + noise, "multipart/form-data; boundary=x"),
        (b"a=1", "application/x-www-form-urlencoded"), (b"", "multipart/form-data; boundary=x"),
        (noise, "multipart/form-data; boundary=" + "y" * 3000),
        (noise, "multipart/form-data; charset=no; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n' + b"A: b\r\n" * 3000,
         "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: " + b"h" * 20_000 + b"\r\n\r\n1\r\n--x--", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="\xff\x00"; filename="\xff"\r\n\r\n1\r\n--x--\r\n',
         "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + good[:50],
         "multipart/form-data; boundary=x"),
    )  # fmt: skip
    body, kind = kinds[rng.integers(len(kinds))]
    return served.ask("POST", "/predict", body, {"Content-Type": kind} if kind else {})


def wrong_http(served: Served, rng: np.random.Generator) -> Answered:
    kind = b"Content-Type: multipart/form-data; boundary=x\r\n"
    kinds = (
        HEAD + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(9000)) + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", rng.bytes(200) + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n\r\n", HEAD + kind + b"Content-Length: -5\r\n\r\n",
        HEAD + kind + b"Content-Length: 99999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + kind + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", HEAD + b": nameless\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    )  # fmt: skip
    return served.raw(kinds[rng.integers(len(kinds))])


KINDS: tuple[Malformed, ...] = (
    random_bytes, truncated, too_many_pixels, not_enough_pixels, wrong_type, odd_image, wrong_fields, wrong_form,
    wrong_http,
)  # fmt: skip


DECODING_STEPS = 4
"""Large steps in which the memory of decoding may still grow, of at most 220 MiB each."""


def refuse_all(served: Served, n_requests: int) -> None:
    """Send malformed requests, each refused with a sentence; the server's memory stays flat."""
    rng, memory_mib = np.random.default_rng(n_requests), []
    with ThreadPoolExecutor(8) as clients:  # every decoding thread meets the largest image once
        list(clients.map(lambda _: not_enough_pixels(served, rng), range(16)))
    for number in range(n_requests):
        kind = KINDS[number % len(KINDS)]
        answer = kind(served, rng)
        assert 400 <= answer.status < 500, (kind.__name__, answer)
        said = answer.body.decode()
        assert "Traceback" not in said and "/work" not in said and "0x" not in said, said
        if kind is not wrong_http:
            sentence = answer.json["error"]
            assert sentence.endswith((".", ")")) and " " in sentence and sentence.isprintable(), sentence
        else:
            assert " " in said, said
        memory_mib.append(served.memory_mib())
    settled = memory_mib[n_requests // 3 :]
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0])
    print(
        f"\n{n_requests:,} malformed requests: {slope * 1024:+.2f} KiB per request after the first third; "
        f"{memory_mib[0]:.0f} MiB at first, {settled[0]:.0f} then, {memory_mib[-1]:.0f} at last"
    )
    # An allocator grows in a few large steps, one for each decoding thread that meets its largest image; what leaks
    # grows with every request. The highest so far may rise by such steps, and by little beside them.
    rises = np.sort(np.diff(np.maximum.accumulate(settled)))
    assert rises[:-DECODING_STEPS].sum() < 16 and rises.sum() < DECODING_STEPS * 220
    good = served.send("/predict", ("a.png", image(rng)))
    assert good.status == 200 and good.json["images"][0]["predicted"]


def test_malformed_requests_are_refused_in_sentences_and_memory_stays_flat(served: Served) -> None:
    refuse_all(served, 153)


@pytest.mark.slow
def test_a_thousand_malformed_requests_are_refused_in_sentences_and_memory_stays_flat(served: Served) -> None:
    refuse_all(served, 1_000)


def test_the_first_mistakes_of_several_images_are_named(served: Served) -> None:
    rng = np.random.default_rng(0)
    answer = served.send("/predict", ("good.png", image(rng)), ("cut.png", image(rng)[:200]), ("text.png", b"text"))
    assert answer.status == 422
    assert "cut.png" in answer.json["error"] and "text.png" in answer.json["error"]
    assert "good.png" not in answer.json["error"]


def test_long_headers_and_addresses_are_refused_as_what_they_are(served: Served) -> None:
    long = served.ask("GET", "/health", headers={"X-Long": "a" * 50_000})
    assert long.status in (400, 431) and b" " in long.body
    address = served.ask("GET", "/" + "a" * 20_000)
    assert address.status in (400, 414) and b" " in address.body
    assert served.ask("GET", "/health", headers={"X-Short": "a" * 5_000}).status == 200


def test_a_body_that_never_ends_is_cut_off(served: Served) -> None:
    part = b"10000\r\n" + b"a" * 65_536 + b"\r\n"
    head = HEAD + b"Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n"
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    answer = served.raw(head + b"%x\r\n" % len(start) + start + b"\r\n" + part * 600)
    assert answer.status == 413


def test_words_of_clients_are_made_harmless() -> None:
    assert printable("a\x1b[31m\n\u202eb") == "a [31m  b"
    assert len(printable("n" * 1000)) == 200
    assert upload_limit(64_000_000, 32) == 32 * 2**20 + 65_536
    assert upload_limit(1, 32) < 17 * 2**20
    assert Path(printable("../a")).name == "a"
