from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotune.tools.provenance import (
    LIBRARIES,
    collect_provenance,
    cpu_count,
    cpu_name,
    library_version,
    memory_gib,
    redact,
)

HEX40 = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "text",
    [
        "hf auth login --token hf_AbCdEfGhIjKlMnOp",
        "HF_TOKEN=hf_AbCdEfGhIjKlMnOp histotune run",
        f"wandb login {HEX40}",
        f"wandb login {HEX40} --relogin",
        f"WANDB_API_KEY={HEX40} histotune run",
        "--wandb-key wandb_v1_AbCdEfGh_IjKlMnOp",
        '{"username": "me", "key": "0011223344AbCdEfGhIjKlMnOp"}',
        "KAGGLE_KEY=AbCdEfGhIjKlMnOp",
        "KGAT_AbCdEfGhIjKlMnOp",
        "password: AbCdEfGhIjKlMnOp",
        "TOKEN = 'AbCdEfGhIjKlMnOp'",
    ],
)
def test_secrets_are_replaced(text: str) -> None:
    cleaned = redact(text)
    assert "***" in cleaned
    assert "AbCdEfGh" not in cleaned
    assert HEX40 not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "histotune run breakhis --data breakhis_sample --train-magnification 100X",
        f"histotune embed --backbone kaiko-ai/midnight --revision {HEX40}",
        f"--revision={HEX40}",
        f"kaiko-ai/midnight@{HEX40}",
        "histotune demo --out runs/demo",
        f"sha256 {HEX40}{HEX40[:24]}",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8, max_size=40))
def test_any_hub_token_is_replaced_anywhere(secret: str) -> None:
    assert secret not in redact(f'cmd "hf_{secret}" (hf_{secret}), hf_{secret}')


@given(st.text(max_size=80))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


def test_versions_come_from_the_installed_metadata() -> None:
    assert library_version("pydantic") == version("pydantic")
    assert library_version("no-such-distribution") == "not installed"


def test_the_record_holds_versions_and_hardware_and_is_json_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["histotune", "run", "--token", "hf_AbCdEfGhIjKlMnOp"])
    record = collect_provenance()
    text = json.dumps(record.as_dict())
    assert set(record.versions) == set(LIBRARIES)
    assert record.versions["numpy"] == version("numpy")
    assert record.python == platform.python_version()
    assert record.n_cpus == cpu_count() >= 1
    assert record.command == "histotune run --token ***"
    assert "AbCdEfGh" not in text
    assert datetime.fromisoformat(record.started).utcoffset() is not None


def test_the_record_names_no_host_and_no_user() -> None:
    record = collect_provenance().as_dict()
    record.pop("command")
    assert set(record) == {"versions", "python", "platform", "cpu", "n_cpus", "memory_gib", "started"}
    assert platform.node() not in {str(value) for value in record.values()}


def test_hardware_reads_as_a_person_would_say_it() -> None:
    assert cpu_name()
    if sys.platform != "win32":
        assert 0.1 < memory_gib() < 100_000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity (Linux)")
def test_cores_are_those_this_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from histotune.tools.provenance import cpu_count; print(cpu_count())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "1"


def test_collecting_imports_no_heavy_library() -> None:
    code = (
        "import sys; from histotune.tools.provenance import collect_provenance; collect_provenance()\n"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'polars', 'timm', 'transformers'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
