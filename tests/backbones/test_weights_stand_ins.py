"""What lies in place of weights: pointers of Git LFS, pages of a login; and the files of torch's own format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.backbones.catalog import find_backbone
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.weights import locate_weights, model_json, weights_hash
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError

PAGE = b"<!DOCTYPE html>\n<html><title>Log in</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"
PROCESSOR = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}


def tiny_vit(folder: Path, *, classifier: bool = False) -> Path:
    """Save a small random ViT as transformers does."""
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    torch.manual_seed(0)
    model = ViTForImageClassification(config) if classifier else ViTModel(config)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    return folder


def as_torch_files(folder: Path, prefix: str = "", n_files: int = 1) -> None:
    """Put the weights of a folder into torch's own format, in one file or several."""
    from safetensors.torch import load_file

    tensors = {f"{prefix}{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    if n_files == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    shard_of = {name: f"pytorch_model-{number % n_files + 1}.bin" for number, name in enumerate(sorted(tensors))}
    for shard in set(shard_of.values()):
        torch.save({name: tensors[name] for name in tensors if shard_of[name] == shard}, folder / shard)
    index = {"metadata": {}, "weight_map": shard_of}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


def embedded(folder: Path) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    spec = find_backbone(BackboneConfig(name=str(folder)))
    cpu = ComputeDevice(kind="cpu", name="test", capability="", memory_gib=float("nan"), fast_bf16=False)
    assert weights_hash(spec)
    return load_backbone(spec, cpu, "fp32").embed(pixels)


@pytest.mark.parametrize(("prefix", "n_files"), [("", 1), ("", 2), ("module.", 1), ("teacher.backbone.", 1)])
def test_a_folder_with_torch_files_alone_embeds_as_with_safetensors(tmp_path: Path, prefix: str, n_files: int) -> None:
    folder = tiny_vit(tmp_path / "vit")
    expected = embedded(folder)
    as_torch_files(folder, prefix, n_files)
    assert np.array_equal(embedded(folder), expected)


def test_a_pickled_object_in_a_folder_is_never_run(tmp_path: Path) -> None:
    folder = tiny_vit(tmp_path / "vit")
    as_torch_files(folder)

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "sprung"),)

    torch.save({"x": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="can't be read"):
        embedded(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_fine_tuned_classifier_gives_its_backbone_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_vit(tmp_path / "vit", classifier=True)
    capfd.readouterr()
    assert embedded(folder).shape == (2, 32)
    said = capfd.readouterr()
    assert "REPORT" not in said.out + said.err + caplog.text
    assert "classifier" not in said.out + said.err + caplog.text


@pytest.mark.parametrize(("content", "said"), [(PAGE, "is a web page"), (POINTER, "is a pointer of Git LFS")])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_what_lies_in_place_of_a_models_files_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    folder = tiny_vit(tmp_path / "vit")
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        locate_weights(find_backbone(BackboneConfig(name=str(folder))))
    assert str(caught.value.fix)
    assert ("git lfs pull" in str(caught.value.fix)) == (content is POINTER)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 200_000])
def test_json_of_another_kind_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="not readable JSON"):
        model_json(tmp_path / "config.json")


class Proxy(BaseHTTPRequestHandler):
    """Answers everything with the page of a login, or with an error."""

    status = 200

    def _answer(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(PAGE)))
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(PAGE)

    do_GET = do_HEAD = do_POST = _answer

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a server that answers with one status, always with a page."""
    handler = type("OneStatus", (Proxy,), {"status": getattr(request, "param", 200)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def command(proxy: str, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line behind a proxy; the hub's library reads its address when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": proxy, "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "c")}
    environment |= {"COLUMNS": "300", "HF_HUB_OFFLINE": "0"}
    called = [sys.executable, "-m", "histotune", *map(str, arguments)]
    return subprocess.run(called, check=False, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("backbone", ["organisation/name", "phikon"])
def test_a_hub_that_answers_with_a_page_is_one_message(proxy: str, tmp_path: Path, backbone: str) -> None:
    from PIL import Image

    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "tiles" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "tiles" / name)
    asked = ("embed", "tiles", "--data", tmp_path / "tiles", "--backbone", backbone)
    for _ in range(2):  # the page is not taken for the file the second time either
        done = command(proxy, tmp_path, *asked)
        assert done.returncode == 2, done.stderr
        assert "is a web page, such as that of a login or a proxy" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_check_of_a_backbone_names_the_page(proxy: str, tmp_path: Path) -> None:
    done = command(proxy, tmp_path, "backbones", "check", "phikon")
    assert done.returncode == 1
    assert "perhaps it is a web page" in done.stdout


@pytest.mark.parametrize(("proxy", "said"), [(429, "wait some minutes"), (503, "status 503")], indirect=["proxy"])
def test_a_hub_that_refuses_is_not_called_unreachable(proxy: str, tmp_path: Path, said: str) -> None:
    code = (
        "from histotune.backbones.weights import hub_file; from histotune.tools.errors import UserError\n"
        "try: hub_file('a/b', 'config.json', '')\nexcept UserError as error: print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": proxy, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=300
    )
    assert said in done.stdout, done.stdout + done.stderr
    assert "can't be reached" not in done.stdout
