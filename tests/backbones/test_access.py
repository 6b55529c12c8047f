"""What stands between a user and a backbone, asked of fakes of the hub's client; no token is ever shown."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from histotune.backbones.access import AccessReport, access_table, check_access
from histotune.backbones.catalog import find_entry
from histotune.tools.errors import UserError

SECRET = "hf_aVerySecretTokenOfSomebody"


def hub_error(kind: str, status: int) -> Exception:
    """Return one of the hub client's errors with a response, whatever its version's constructor takes."""
    from huggingface_hub import errors

    error_class = getattr(errors, kind)
    error: Exception = error_class.__new__(error_class)
    error.args = (f"{status} for token {SECRET}",)
    error.response = SimpleNamespace(status_code=status, headers={})  # type: ignore[attr-defined]
    return error


class ReadTimeoutError(Exception):
    """As transport libraries raise it."""


class FakeHub:
    """A stand-in for ``HfApi``: answers, or raises what it was told to."""

    def __init__(self, *, gated: object = False, info: Exception | None = None, who: Exception | None = None,
                 access: Exception | None = None, size: int = 10) -> None:  # fmt: skip
        self.info, self.who, self.access = info, who, access
        siblings = [
            SimpleNamespace(rfilename="model.safetensors", size=size),
            SimpleNamespace(rfilename="x", size=9**20),
        ]
        self.answer = SimpleNamespace(gated=gated, siblings=siblings)
        self.asked: list[tuple[str, dict[str, object]]] = []

    def model_info(self, repository: str, **options: object) -> object:
        self.asked.append((repository, options))
        if self.info is not None:
            raise self.info
        return self.answer

    def whoami(self) -> dict[str, str]:
        if self.who is not None:
            raise self.who
        return {"name": SECRET}

    def auth_check(self, repository: str) -> None:
        if self.access is not None:
            raise self.access


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty hub cache on a machine with a token, online."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return tmp_path / "hub"


def check(name: str, hub: FakeHub) -> AccessReport:
    return check_access([name], hub)[0]


def words(report: AccessReport) -> str:
    return "; ".join(f"{one.what} {one.state}: {one.words} -> {one.fix}" for one in report.findings)


def test_an_open_backbone_that_answers_can_be_used() -> None:
    hub = FakeHub()
    report = check("phikon", hub)
    assert report.usable
    assert "hub ok: answers; access is open" in words(report)
    assert "disk ok: 0.0 GiB to download" in words(report)
    assert "cache unknown: not downloaded yet" in words(report)
    repository, options = hub.asked[0]
    assert (repository, options["revision"], options["timeout"]) == ("owkin/phikon", None, 10.0)
    pinned = FakeHub()
    check("midnight", pinned)
    assert pinned.asked[0][1]["revision"] == find_entry("midnight").spec.revision  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "answer", "fix"),
    [
        (hub_error("RepositoryNotFoundError", 401), "does not know the token", "hf auth login"),
        (hub_error("HfHubHTTPError", 401), "does not know the token", "hf auth login"),
        (
            hub_error("GatedRepoError", 403),
            "not granted",
            "accept its licence at https://huggingface.co/MahmoodLab/UNI",
        ),
        (hub_error("RepositoryNotFoundError", 404), "no such repository", "open https://huggingface.co/MahmoodLab/UNI"),
        (hub_error("RevisionNotFoundError", 404), "has no revision", "commits/main"),
        (hub_error("HfHubHTTPError", 429), "too many requests", "wait some minutes"),
        (hub_error("HfHubHTTPError", 503), "answers with an error (503)", "try again later"),
        (TimeoutError("slow"), "did not answer within 10 s", "try again"),
        (ReadTimeoutError("slow"), "did not answer within 10 s", "try again"),
        (ConnectionError("no route"), "can't be reached", "HTTPS_PROXY"),
        (ValueError(f"odd {SECRET}"), "could not be asked: odd ***", "report"),
    ],
)
def test_each_failure_has_its_answer_and_what_to_do(error: Exception, answer: str, fix: str) -> None:
    report = check("uni", FakeHub(info=error))
    assert not report.usable
    assert answer in words(report) and fix in words(report)
    assert SECRET not in words(report)


def test_a_real_transport_time_out_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own library, a connection refused at once: no name or address is looked up."""
    from huggingface_hub import HfApi

    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    report = check_access(["phikon"], HfApi(endpoint="http://127.0.0.1:9", token=False))[0]
    assert not report.usable
    assert "can't be reached" in words(report)


def test_gated_with_everything_in_order() -> None:
    report = check("uni2-h", FakeHub(gated="auto"))
    assert report.usable
    assert "token ok: present and valid; " in words(report).replace(" -> ", "") + "; "
    assert "licence ok: accepted" in words(report)
    assert SECRET not in words(report)


def test_gated_without_a_token_or_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = FakeHub(gated="manual", access=hub_error("GatedRepoError", 403))
    report = check("h-optimus-1", refused)
    assert not report.usable
    assert "not accepted, or access not granted yet; its owners grant access by hand" in words(report)
    assert "accept its licence at https://huggingface.co/bioptimus/H-optimus-1" in words(report)
    report = check("uni", FakeHub(gated="auto", who=hub_error("HfHubHTTPError", 401)))
    assert "token problem: not valid any more" in words(report) and not report.usable
    report = check("uni", FakeHub(gated="auto", who=hub_error("HfHubHTTPError", 500)))
    assert "could not be tried" in words(report)
    report = check("uni", FakeHub(gated="auto", access=hub_error("HfHubHTTPError", 429)))
    assert "licence unknown: could not be asked (429)" in words(report)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    report = check("uni", FakeHub(gated="auto"))
    assert "token problem: none -> accept its licence" in words(report)


def test_offline_nothing_is_asked_and_the_cache_suffices(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub = FakeHub()
    report = check("midnight", hub)
    assert not report.usable and "HF_HUB_OFFLINE" in words(report)
    snapshot = machine / "models--kaiko-ai--midnight" / "snapshots" / "adc6b15679c981cce6f9b018bbad09d16eeeda9f"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    report = check("midnight", hub)
    assert report.usable and "cache ok: downloaded, commit adc6b15679c9" in words(report)
    assert hub.asked == []


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 2**30))
    assert check("phikon", FakeHub(size=1 * 2**30)).usable
    report = check("phikon", FakeHub(size=2 * 2**30))
    assert not report.usable
    assert "2.0 GiB to download, 2.0 GiB free -> free some room" in words(report)


def test_what_needs_no_hub_and_what_can_not_be_run() -> None:
    hub = FakeHub()
    assert check("lite0", hub).usable and check("colour-histogram", hub).usable
    report = check("conch", hub)
    assert not report.usable
    assert "pip install git+https://github.com/Mahmoodlab/CONCH.git" in words(report)
    assert hub.asked == []
    assert check("some/repository", hub).usable
    with pytest.raises(UserError, match="unknown backbone") as caught:
        check("midnigth", hub)
    assert caught.value.closest == "midnight"


def test_an_adapter_of_the_catalog_is_asked_for_too() -> None:
    hub = FakeHub()
    report = check("midnight-spectra", hub)
    assert [repository for repository, _ in hub.asked] == ["kaiko-ai/midnight", "medarc/spectra-midnight-12k-lora"]
    assert "adapter hub ok" in words(report)


def test_a_table_of_answers_shows_no_token() -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    reports = check_access(["uni", "conch"], FakeHub(gated="auto", access=hub_error("GatedRepoError", 403)))
    console.print(access_table(reports).as_rich())
    text = console.export_text()
    assert "can't be used yet" in text and "not accepted" in text
    assert SECRET not in text
