"""Pushing shows first, uploads what it showed, and tells no token; the hub is a small one on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

import histotune as ht
from histotune.deploy.bundle import load_bundle, save_bundle
from histotune.tools.errors import UserError
from tests.conftest import CommandResult
from tests.deploy.conftest import Trained

Histotune = Callable[..., CommandResult]
TOKEN = "hf_" + "s" * 34


@dataclass
class Hub:
    """What a hub on this machine was asked, and what it holds."""

    url: str = ""
    status: int = 200
    exists: bool = False
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    created: list[dict[str, object]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            hub.asked.append(f"GET {self.path}")
            self.answer({"id": "me/head", "sha": "0" * 40, "private": True, "tags": [], "siblings": []})

        def do_POST(self) -> None:
            hub.asked.append(f"POST {self.path}")
            hub.tokens.add(str(self.headers.get("Authorization")))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/api/repos/create":
                hub.created.append(json.loads(body))
                if hub.exists:
                    hub.status = 409
                self.answer({"url": f"{hub.url}/me/head", "id": "1", "name": "me/head"})
            elif "/preupload/" in self.path:
                names = [one["path"] for one in json.loads(body)["files"]]
                files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for name in names]
                self.answer({"files": files})
            elif "/commit/" in self.path:
                for line in body.splitlines():
                    item = json.loads(line)
                    if item["key"] == "file":
                        hub.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                url = f"{hub.url}/me/head/commit/{'1' * 40}"
                self.answer({"success": True, "commitOid": "1" * 40, "commitUrl": url, "hookOutput": ""})
            else:
                self.answer({"errors": [], "warnings": []})

        def answer(self, value: object) -> None:
            status, hub.status = hub.status, 200 if hub.exists else hub.status
            refusal = {"error": "it exists", "url": f"{hub.url}/me/head"} if hub.exists else {"error": f"no {TOKEN}"}
            data = json.dumps(value if status == 200 else refusal).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub on loopback that takes repositories and commits."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(found))
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # The hub's client remembers the proxy of the process's first request; another test may have named one.
    close = getattr(huggingface_hub, "close_session", None)
    if close is not None:
        close()
    yield found
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def exported(networks: dict[str, str], trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    ht.export(trained(networks["dinov2"]), "folder", out=out, head_only=True)
    return out


def test_without_yes_nothing_leaves_this_machine(histotune: Histotune, exported: Path, hub: Hub) -> None:
    done = histotune("push", exported, "me/head", "--endpoint", hub.url)
    assert done.code == 0, done.err
    assert hub.asked == []
    for words in ("head.safetensors", "README.md", "private", "nothing was uploaded", "--yes", "licence", "6 files"):
        assert words in done.out


def test_yes_uploads_what_was_shown(histotune: Histotune, exported: Path, hub: Hub) -> None:
    done = histotune("--debug", "push", exported, "me/head", "--yes", "--endpoint", hub.url)
    assert done.code == 0, done.err
    here = {path.relative_to(exported).as_posix(): path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    assert hub.files == here
    assert hub.created[0]["name"] == "head" and hub.created[0]["organization"] == "me"
    assert hub.created[0].get("private") or hub.created[0].get("visibility") == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.out + done.err
    assert "uploaded to me/head" in done.out


def test_a_repository_that_exists_gets_another_commit(histotune: Histotune, exported: Path, hub: Hub) -> None:
    hub.exists = True
    done = histotune("push", exported, "me/head", "--yes", "--endpoint", hub.url)
    assert done.code == 0, done.err
    assert "head.safetensors" in hub.files


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_one_message_without_the_token(
    histotune: Histotune, exported: Path, hub: Hub, status: int
) -> None:
    hub.status = status
    done = histotune("push", exported, "me/head", "--yes", "--endpoint", hub.url)
    assert done.code == 2 and hub.files == {}
    assert TOKEN not in done.out + done.err and "Traceback" not in done.err
    assert "the hub refused with status" in done.err


def test_no_answer_is_one_message(histotune: Histotune, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = histotune("push", exported, "me/head", "--yes", "--endpoint", "http://127.0.0.1:9")
    assert done.code == 2 and "no answer" in done.err and TOKEN not in done.err


def test_without_a_token_the_command_says_how_to_get_one(
    histotune: Histotune, exported: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    done = histotune("push", exported, "me/head", "--yes", "--endpoint", hub.url)
    assert done.code == 2 and "hf auth login" in done.err and hub.asked == []


@pytest.mark.parametrize("name", ["head", "me/", "a/b/c", "me/../x", "https://x/y", "me/he ad"])
def test_an_impossible_name_is_refused(histotune: Histotune, exported: Path, name: str) -> None:
    done = histotune("push", exported, name)
    assert done.code == 2 and "no name of a repository" in done.err


def test_a_heads_own_folder_goes_with_a_card_and_a_word_on_its_groups(
    histotune: Histotune, trained: Trained, hub: Hub, tmp_path: Path
) -> None:
    save_bundle(trained("lite0"), tmp_path / "head")
    (tmp_path / "head" / "secret.txt").write_text("not part of a head", encoding="utf-8")
    done = histotune("push", tmp_path / "head", "me/head", "--yes", "--public", "--endpoint", hub.url)
    assert done.code == 0, done.err
    assert set(hub.files) == {"README.md", "bundle.json", "head.json", "head.safetensors"}
    assert "names the" in done.out and "everybody" in done.out
    assert "histotune predict" in ModelCard(hub.files["README.md"].decode()).text


def test_a_pushed_head_leaves_the_embeddings_of_its_patients_tiles_at_home_and_opens_without_them(
    histotune: Histotune, cases_head: Path, hub: Hub, tmp_path: Path
) -> None:
    assert (cases_head / "reference.safetensors").is_file()
    done = histotune("push", cases_head, "me/head", "--yes", "--endpoint", hub.url)
    assert done.code == 0, done.err
    assert "reference.safetensors" not in hub.files
    (tmp_path / "got").mkdir()
    for name, content in hub.files.items():
        (tmp_path / "got" / name).write_bytes(content)
    got, own = load_bundle(tmp_path / "got"), load_bundle(cases_head)
    assert got.head.head_id == own.head.head_id and got.view == own.view and got.backbone == own.backbone
    assert got.reference.sample is None and "not passed on" in got.reference.reason
    assert got.reference.scale == own.reference.scale


def test_what_is_for_own_use_only_is_not_pushed(
    histotune: Histotune, networks: dict[str, str], trained: Trained, hub: Hub, tmp_path: Path
) -> None:
    ht.export(trained(networks["dinov2"]), "folder", out=tmp_path / "out", for_own_use=True)
    done = histotune("push", tmp_path / "out", "me/head", "--yes", "--endpoint", hub.url)
    assert done.code == 2 and "own use only" in done.err and hub.asked == []


@pytest.mark.parametrize("name", ["x.pkl", ".hidden", "link"])
def test_odd_files_are_refused(exported: Path, tmp_path: Path, name: str) -> None:
    import shutil

    folder = shutil.copytree(exported, tmp_path / "copy")
    if name == "link":
        (folder / name).symlink_to("/etc/hostname")
    else:
        (folder / name).write_bytes(b"x")
    with pytest.raises(UserError, match="does not belong into an export"):
        ht.push(folder, "me/head")


def test_any_other_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not written by histotune export"):
        ht.push(tmp_path, "me/head")
