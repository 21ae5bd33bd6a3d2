"""A model of 300 million parameters fits: built, trained and saved on two workers of one machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from benchmarks.tokenise import measure
from tests.data.made_tokenizers import byte_level

ROOT = Path(__file__).resolve().parent.parent
LIMIT_BYTES = 20 << 30
JOB = {
    "job": "size",
    "model": {
        "family": "qwen3_moe",
        "config": {
            "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 64, "num_experts": 48, "num_experts_per_tok": 4, "moe_intermediate_size": 512,
        },
    },
    "data": {"text": "stdlib", "sequence_length": 32},
    "batch": {"lanes": 2},
    "steps": 3,
    "islands": [{"name": "east", "accelerator": "cpu", "workers": 2}],
}  # fmt: skip


def memory_of(root: psutil.Process) -> int:
    """Bytes of all processes below `root`, shared pages counted once."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it has just ended
    return total


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_300_million_parameters_train_on_two_workers(tmp_path: Path) -> None:
    job, run_dir = tmp_path / "job.yaml", tmp_path / "run"
    job.write_text(yaml.safe_dump(JOB))
    words = [sys.executable, "-m", "dougong", "run", str(job), "--no-ray", "--run-dir", str(run_dir)]
    process = psutil.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process))
        time.sleep(0.3)
    output = process.stdout.read()
    assert process.returncode == 0, output
    assert 0 < peak < LIMIT_BYTES, f"{peak / 2**30:.1f} GiB"
    assert [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    index = json.loads((run_dir / "checkpoints/step-000003/model/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] > 4 * 300_000_000
    print(f"peak {peak / 2**30:.1f} GiB")
    shutil.rmtree(run_dir / "checkpoints")  # pytest keeps the folders of its last runs


def test_one_long_line_takes_no_more_memory_than_many_short_ones(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    words, peaks = "join unlike timbers", {}
    for name, text in {"none": "x", "lines": f"{words}\n" * 100_000, "line": f"{words} " * 100_000}.items():
        (tmp_path / name).write_text(text)
        peaks[name], _ = measure(tmp_path, tmp_path / name)
    assert peaks["line"] - peaks["none"] < 2 * (peaks["lines"] - peaks["none"]), peaks
