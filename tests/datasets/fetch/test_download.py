from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histotune.datasets.fetch.download import Unavailable, download
from histotune.datasets.fetch.source import Checksums, RemoteFile
from histotune.datasets.fetch.transport import read_some
from histotune.tools.errors import UserError

from .conftest import IMPATIENT, Heard, content, remote, sums
from .server import Act, Server, serving

DATA = content(5_000)
OTHER = content(5_000, seed=1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_verified_under_its_name_and_nothing_else_stays(
    server: Server, heard: Heard, tmp_path: Path
) -> None:
    got = download(remote(server, DATA), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert (got.digest.sha256, got.digest.size_bytes) == (sums(DATA).sha256, len(DATA))
    assert names(tmp_path) == ["file.bin"]
    assert server.requests[0][1]["accept-encoding"] == "identity"
    assert heard.said == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, len(DATA)), min_size=1, max_size=4),
    ends=st.lists(st.sampled_from(["close", "reset"]), min_size=4, max_size=4),
    known=st.booleans(),
)
def test_a_download_interrupted_at_any_byte_resumes_and_verifies(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ends: list[str], known: bool
) -> None:
    folder = tmp_path_factory.mktemp("cuts")
    heard = Heard()
    with serving() as server:
        file = remote(server, DATA, exact=known, known=known)
        server.acts["file.bin"] = [Act(cut=cut, end=end) for cut, end in zip(cuts, ends, strict=False)]
        got = download(file, folder, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert names(folder) == ["file.bin"]
    assert len(server.requests) <= len(cuts) + 1


@pytest.mark.parametrize("cut", [0, 1, 2_499, 4_999, 5_000])
def test_the_next_call_continues_where_the_last_one_was_given_up(
    server: Server, heard: Heard, tmp_path: Path, cut: int
) -> None:
    file = remote(server, DATA)
    server.acts["file.bin"] = [Act(cut=cut)] + [Act(status=503)] * 7
    if cut < len(DATA):
        with pytest.raises(Unavailable, match="overloaded"):
            download(file, tmp_path, heard.transfer())
        assert not (tmp_path / "file.bin").exists()
        assert (tmp_path / "file.bin.partial").stat().st_size == cut
        server.acts["file.bin"] = []
    got = download(file, tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert server.ranges("file.bin")[-1] == (f"bytes={cut}-" if 0 < cut < len(DATA) else None)


def test_the_record_beside_a_partial_says_what_it_is_part_of(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(cut=100), Act(status=404)]
    with pytest.raises(Unavailable, match="not at its address any more"):
        download(remote(server, DATA), tmp_path, heard.transfer())
    record = json.loads((tmp_path / "file.bin.partial.json").read_text())
    assert record["url"] == server.url("file.bin")
    assert (record["total_bytes"], record["md5"]) == (5_000, sums(DATA).md5)
    assert record["etag"].startswith('"')


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"url": 1}'])
def test_a_partial_with_a_broken_record_is_started_anew(
    server: Server, heard: Heard, tmp_path: Path, broken: str
) -> None:
    (tmp_path / "file.bin.partial").write_bytes(OTHER[:700])
    (tmp_path / "file.bin.partial.json").write_text(broken)
    got = download(remote(server, DATA), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert server.ranges("file.bin") == [None]


def test_a_server_that_ignores_ranges_is_read_from_zero(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(cut=3_000), Act(ignore_range=True)]
    got = download(remote(server, DATA, exact=False, known=False), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert any("does not continue downloads; from zero" in text for text in heard.said)


def test_a_file_that_changes_at_the_server_is_never_mixed_with_the_old_one(
    server: Server, heard: Heard, tmp_path: Path
) -> None:
    file = remote(server, DATA, exact=False, known=False)
    server.acts["file.bin"] = [Act(cut=3_000, body=OTHER)]
    got = download(file, tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert server.requests[1][1]["if-range"] != ""
    assert any("changed" in text for text in heard.said)


def test_a_changed_file_is_found_even_where_the_server_continues_it(
    server: Server, heard: Heard, tmp_path: Path
) -> None:
    file = remote(server, DATA, exact=False, known=False)
    server.acts["file.bin"] = [
        Act(cut=3_000, body=OTHER, headers={"ETag": None, "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}),
        Act(headers={"Content-Range": "bytes 3000-6999/7000", "ETag": None}),
    ]
    got = download(file, tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert any("another length now" in text for text in heard.said)


def test_without_validator_and_without_checksum_nothing_is_continued(
    server: Server, heard: Heard, tmp_path: Path
) -> None:
    server.acts["file.bin"] = [Act(cut=3_000, headers={"ETag": None})]
    got = download(remote(server, DATA, exact=False, known=False), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert server.ranges("file.bin") == [None, None]


def test_with_a_checksum_a_download_continues_without_validator(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(cut=3_000, headers={"ETag": 'W/"weak"'})]
    download(remote(server, DATA), tmp_path, heard.transfer())
    assert server.ranges("file.bin") == [None, "bytes=3000-"]
    assert "if-range" not in server.requests[1][1]


def test_parts_that_do_not_belong_together_are_fetched_once_more_from_zero(
    server: Server, heard: Heard, tmp_path: Path
) -> None:
    server.acts["file.bin"] = [Act(cut=3_000, body=OTHER, headers={"ETag": None})]
    got = download(remote(server, DATA), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert server.ranges("file.bin") == [None, "bytes=3000-", None]
    assert any("put together from several connections" in text for text in heard.said)


@pytest.mark.parametrize("shift", [-10, 10])
def test_another_part_than_the_one_asked_for_is_not_appended(
    server: Server, heard: Heard, tmp_path: Path, shift: int
) -> None:
    server.acts["file.bin"] = [Act(cut=3_000), Act(shift=shift)]
    got = download(remote(server, DATA, exact=False, known=False), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert any("another part than the one asked for" in text for text in heard.said)


def test_a_partial_of_another_publication_is_not_continued(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(cut=3_000), Act(status=404)]
    with pytest.raises(Unavailable):
        download(remote(server, OTHER), tmp_path, heard.transfer())
    server.requests.clear()
    assert download(remote(server, DATA), tmp_path, heard.transfer()).path.read_bytes() == DATA
    assert server.ranges("file.bin") == [None]


def test_a_body_without_end_is_left_at_the_published_length(
    server: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(reply: object, limit_bytes: int) -> bytes:
        data = read_some(reply, limit_bytes)  # type: ignore[arg-type]
        read.append(len(data))
        return data

    monkeypatch.setattr("histotune.datasets.fetch.download.read_some", counted)
    with pytest.raises(Unavailable, match="more than the 5,000 bytes that are published"):
        download(remote(server, DATA, served=bytes(20_000_000)), tmp_path, heard.transfer())
    assert sum(read) < 1_000_000


def test_a_disk_that_takes_few_bytes_at_a_time_gets_all(
    server: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    class Slow(io.FileIO):
        def write(self, data: object) -> int:
            return super().write(memoryview(data)[:700])  # type: ignore[arg-type]

    def open_slow(path: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        return Slow(path, mode) if mode == "ab" else opened(path, mode, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", open_slow)
    assert download(remote(server, DATA), tmp_path, heard.transfer()).path.read_bytes() == DATA
    assert heard.said == []


def test_a_stalled_connection_is_given_up_and_continued(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(cut=2_000, end="hold")]
    started = time.monotonic()
    got = download(remote(server, DATA), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert time.monotonic() - started < 3
    assert any("stalled" in text for text in heard.said)
    assert server.ranges("file.bin")[1] == "bytes=2000-"


def test_a_connection_that_drips_is_given_up_too(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(pause_s=0.02)]
    config = IMPATIENT.model_copy(update={"slow_window_s": 0.15, "slowest_bytes_per_s": 5_000})
    got = download(remote(server, DATA), tmp_path, heard.transfer(config))
    assert got.path.read_bytes() == DATA
    assert any("too slow" in text for text in heard.said)


def test_a_server_that_does_not_close_behind_the_last_byte_is_no_problem(
    server: Server, heard: Heard, tmp_path: Path
) -> None:
    server.acts["file.bin"] = [Act(end="hold")]
    got = download(remote(server, DATA), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert len(server.requests) == 1
    assert heard.said == []


@pytest.mark.parametrize("announce", [4_000, 6_000])
def test_a_length_that_is_a_lie_is_outweighed_by_the_published_one(
    server: Server, heard: Heard, tmp_path: Path, announce: int
) -> None:
    server.always["file.bin"] = Act(announce=announce)
    assert download(remote(server, DATA), tmp_path, heard.transfer()).path.read_bytes() == DATA
    assert len(server.requests) == 1


def test_fewer_bytes_announced_than_sent_are_refused_where_nothing_is_published(
    server: Server, heard: Heard, tmp_path: Path
) -> None:
    server.always["file.bin"] = Act(announce=4_000)
    with pytest.raises(Unavailable, match="more than the 4,000 bytes it announced"):
        download(remote(server, DATA, exact=False, known=False), tmp_path, heard.transfer())
    assert names(tmp_path) == []


def test_more_bytes_announced_than_sent_are_asked_for_again(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.always["file.bin"] = Act(announce=6_000)
    got = download(remote(server, DATA, exact=False, known=False), tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert server.ranges("file.bin") == [None, "bytes=5000-"], "the server then says that there are no more"


def test_a_close_without_any_length_is_judged_by_the_checksum(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(headers={"Content-Length": None})]
    assert download(remote(server, DATA, exact=False), tmp_path, heard.transfer()).path.read_bytes() == DATA
    server.acts["cut.bin"] = [Act(headers={"Content-Length": None}, cut=4_000)]
    with pytest.raises(UserError, match="its MD5 is"):
        download(remote(server, DATA, name="cut.bin", exact=False), tmp_path, heard.transfer())
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("wrong", [OTHER, DATA[:-1], DATA + b"x", b""], ids=["same size", "shorter", "longer", "empty"])
def test_a_wrong_file_leaves_nothing_that_looks_finished(
    server: Server, heard: Heard, tmp_path: Path, wrong: bytes
) -> None:
    with pytest.raises((UserError, Unavailable)) as caught:
        download(remote(server, DATA, served=wrong), tmp_path, heard.transfer())
    assert names(tmp_path) == []
    assert "removed" in str(caught.value)
    assert len(server.requests) <= 2


def test_a_wrong_checksum_names_both_sums(server: Server, heard: Heard, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        download(remote(server, DATA, served=OTHER), tmp_path, heard.transfer())
    for digest in (sums(DATA).md5, sums(OTHER).md5, sums(DATA).sha256, sums(OTHER).sha256):
        assert digest in str(caught.value)
    assert len(server.requests) == 1, "an unbroken download of a wrong file is not repeated"


def test_a_check_of_the_whole_file_stands_before_its_name(server: Server, heard: Heard, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        assert path.name == "file.bin.partial"
        raise UserError("no archive")

    with pytest.raises(UserError, match=r"no archive; what arrived was removed"):
        download(remote(server, DATA, known=False), tmp_path, heard.transfer(), refuse)
    assert names(tmp_path) == []


def test_redirects_are_followed_with_the_range(server: Server, heard: Heard, tmp_path: Path) -> None:
    file = remote(server, DATA)
    server.files["store.bin"] = DATA
    moved = Act(status=302, headers={"Location": "/store.bin?token=SECRET"})
    server.always["file.bin"] = moved
    server.acts["store.bin"] = [Act(cut=1_000)]
    got = download(file, tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert server.ranges("store.bin") == [None, "bytes=1000-"]
    assert "SECRET" not in "".join(heard.said) + got.url


def test_a_partial_keeps_no_secret_of_a_redirect(server: Server, heard: Heard, tmp_path: Path) -> None:
    file = remote(server, DATA)
    server.files["store.bin"] = DATA
    server.always["file.bin"] = Act(status=302, headers={"Location": "/store.bin?token=SECRET"})
    server.acts["store.bin"] = [Act(cut=1_000), *[Act(status=403)]]
    with pytest.raises(Unavailable) as caught:
        download(file, tmp_path, heard.transfer())
    assert "SECRET" not in (tmp_path / "file.bin.partial.json").read_text() + str(caught.value)


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("/file.bin", "redirects too often"),
        ("http://example.org/file.bin", "is not https"),
        ("ftp://x/y", "is not https"),
    ],
)
def test_redirects_are_bounded_and_stay_on_https(
    server: Server, heard: Heard, tmp_path: Path, location: str, why: str
) -> None:
    server.always["file.bin"] = Act(status=301, headers={"Location": location})
    with pytest.raises(Unavailable, match=why):
        download(remote(server, DATA), tmp_path, heard.transfer())
    assert len(server.requests) <= IMPATIENT.redirects + 1


def test_a_server_that_asks_to_wait_is_obeyed_within_the_limit(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(status=429, headers={"Retry-After": "7"}), Act(status=503)]
    download(remote(server, DATA), tmp_path, heard.transfer())
    assert heard.waits_s[0] == 7
    assert 1 <= heard.waits_s[1] <= 2
    server.acts["late.bin"] = [Act(status=503, headers={"Retry-After": "86400"})]
    with pytest.raises(Unavailable, match="asks to come back in 86,400 s"):
        download(remote(server, DATA, name="late.bin"), tmp_path, heard.transfer())


def test_waits_double_with_jitter_up_to_a_limit(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.always["file.bin"] = Act(status=500)
    config = IMPATIENT.model_copy(update={"attempts": 6, "backoff_limit_s": 8.0})
    with pytest.raises(Unavailable, match="6 times in a row"):
        download(remote(server, DATA), tmp_path, heard.transfer(config))
    for wait_s, longest_s in zip(heard.waits_s, [1, 2, 4, 8, 8], strict=True):
        assert longest_s / 2 <= wait_s <= longest_s
    assert len({round(wait_s, 6) for wait_s in heard.waits_s}) == 5


def test_progress_renews_patience(server: Server, heard: Heard, tmp_path: Path) -> None:
    server.acts["file.bin"] = [Act(cut=400) for _ in range(11)]
    config = IMPATIENT.model_copy(update={"attempts": 2, "progress_bytes": 400})
    got = download(remote(server, DATA), tmp_path, heard.transfer(config))
    assert got.path.read_bytes() == DATA


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_a_refusal_is_not_repeated_and_the_next_address_is_tried(
    server: Server, heard: Heard, tmp_path: Path, status: int
) -> None:
    file = remote(server, DATA)
    server.always["gone.bin"] = Act(status=status)
    file = replace(file, urls=(server.url("gone.bin"), *file.urls))
    assert download(file, tmp_path, heard.transfer()).url == server.url("file.bin")
    assert [path for path, _ in server.requests] == ["/gone.bin", "/file.bin"]


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Content-Encoding": "gzip"}, "encoded the file"),
        ({"Content-Type": "text/html; charset=utf-8"}, "web page"),
        ({"Content-Type": "multipart/byteranges"}, "can't be used"),
    ],
)
def test_what_is_not_the_file_itself_is_refused(
    server: Server, heard: Heard, tmp_path: Path, headers: dict[str, str | None], why: str
) -> None:
    server.always["file.bin"] = Act(headers=headers)
    with pytest.raises(Unavailable, match=why):
        download(remote(server, DATA), tmp_path, heard.transfer())


def test_a_gz_labelled_as_encoded_is_kept_as_it_is(server: Server, heard: Heard, tmp_path: Path) -> None:
    file = remote(server, DATA, name="file.tar.gz")
    server.always["file.tar.gz"] = Act(headers={"Content-Encoding": "x-gzip"})
    assert download(file, tmp_path, heard.transfer()).path.read_bytes() == DATA


def test_no_server_fails_soon_and_says_so(heard: Heard, tmp_path: Path) -> None:
    with serving() as server:
        file = remote(server, DATA)
    with pytest.raises(Unavailable, match="refuses the connection, 3 times in a row"):
        download(file, tmp_path, heard.transfer())


def test_a_name_that_does_not_resolve_is_explained(heard: Heard, tmp_path: Path) -> None:
    file = RemoteFile("a.bin", ("https://histotune.invalid/a.bin",), 10, True, sums(b""))
    with pytest.raises(Unavailable) as caught:
        download(file, tmp_path, heard.transfer())
    assert "DNS" in str(caught.value) or "reached" in str(caught.value) or "proxy" in str(caught.value)


def test_plain_http_elsewhere_is_refused_before_a_connection(heard: Heard, tmp_path: Path) -> None:
    file = RemoteFile("a.bin", ("http://example.org/a.bin?key=SECRET",), 10, True, sums(b""))
    with pytest.raises(Unavailable, match=r"http://example.org/a.bin is not https") as caught:
        download(file, tmp_path, heard.transfer())
    assert "SECRET" not in str(caught.value)


CHILD = """
import sys
from pathlib import Path
import numpy as np
from histotune.datasets.fetch.source import NetworkConfig
from histotune.datasets.fetch.download import download
from histotune.datasets.fetch.source import Checksums, RemoteFile, Transfer
url, folder, md5, size = sys.argv[1:]
transfer = Transfer(NetworkConfig(chunk_bytes=512), np.random.default_rng(0), print, lambda s: None)
download(RemoteFile("file.bin", (url,), int(size), True, Checksums(md5=md5)), Path(folder), transfer)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_leaves_what_the_next_one_continues(server: Server, heard: Heard, tmp_path: Path) -> None:
    checked = sums(DATA).md5 or ""
    file = replace(remote(server, DATA), checksums=Checksums(md5=checked))
    server.acts["file.bin"] = [Act(pause_s=0.005)]
    command = [sys.executable, "-c", textwrap.dedent(CHILD), file.urls[0], str(tmp_path), checked, str(len(DATA))]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    partial = tmp_path / "file.bin.partial"
    until = time.monotonic() + 15
    while time.monotonic() < until and not (partial.exists() and partial.stat().st_size > 1_000):
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = partial.stat().st_size
    assert 1_000 < kept < len(DATA)
    assert names(tmp_path) == ["file.bin.partial", "file.bin.partial.json"]
    got = download(file, tmp_path, heard.transfer())
    assert got.path.read_bytes() == DATA
    assert server.ranges("file.bin")[-1] == f"bytes={kept}-"


def test_killed_between_the_last_byte_and_the_name_nothing_is_fetched_again(
    server: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = remote(server, DATA, exact=False, known=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "histotune.datasets.fetch.download.Partial.finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        download(file, tmp_path, heard.transfer())
    assert names(tmp_path) == ["file.bin.partial", "file.bin.partial.json"]
    assert download(file, tmp_path, heard.transfer()).path.read_bytes() == DATA
    assert len(server.requests) == 1
