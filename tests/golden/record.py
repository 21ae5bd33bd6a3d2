"""Golden values: what five steps of a few tiny jobs gave, per kind of device and class of kernels.

    python -m tests.golden.record            # writes this machine's values into tests/golden/cpu.json, on purpose
    python -m tests.golden.record --device cuda

Run it when the arithmetic was changed on purpose (and raise `ARITHMETIC` in `dougong/planner/recipe.py`), or to add a
machine of another class. Two machines of one class give the same bits; others only the same losses to rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dougong.accelerators.registry import get_accelerator
from tests.families import config_values

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
STEPS = 5
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{family} {precision}": (family, precision, {})
    for family in ("qwen3_moe", "deepseek_v3", "gpt_oss")
    for precision in ("float32", "bfloat16")
}
"""Family, precision and what else differs from the promise's jobs."""
# The sequence-wise loss beside a bias: where they part, its counts are those of the scores alone.
CASES["deepseek_v3 balanced"] = ("deepseek_v3", "float32", {"router": {"bias_rate": 0.01, "sequence_loss": 0.1}})
# A weight in two places of the model: one sum a micro-batch, also in half precision.
_TIED = {
    "model": {"family": "gpt_oss", "config": config_values("gpt_oss", num_hidden_layers=2, tie_word_embeddings=True)}
}
CASES["gpt_oss tied"] = ("gpt_oss", "bfloat16", _TIED)


def file_of(device: str) -> Path:
    return FOLDER / f"{device}.json"


def compute(device: str) -> dict[str, Any]:
    """This machine's class of kernels, and per case the losses and the state after the last step, as hexadecimal
    numbers; in a process of its own, with a worker's environment."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **get_accelerator(device).worker_environment(1), "PYTHONPATH": path}
    command = [sys.executable, "-m", "tests.golden.record", "--here", device]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def compute_here(device: str) -> dict[str, Any]:
    from dougong.fingerprint.take import take_fingerprint
    from dougong.models.inventory import inspect_model
    from dougong.training.start.preflight import shapes_of
    from tests.jobs import VOCAB
    from tests.test_promise import job_of, train_alone

    accelerator = get_accelerator(device)
    opened = accelerator.open(0)
    job = job_of("qwen3_moe", "float32")
    fingerprint = take_fingerprint(opened, shapes=shapes_of(job, inspect_model(job.model, VOCAB)))
    values = {}
    for case, (family, precision, changes) in CASES.items():
        steps = train_alone(job_of(family, precision, steps=STEPS, **changes), opened)
        values[case] = {"losses": [loss for loss, _, _ in steps], "state": f"{steps[-1][2]:x}"}
    return {"class": fingerprint.kernel_class, "machine": accelerator.describe()["name"], "values": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda", "npu"], default="cpu")
    parser.add_argument("--here", metavar="DEVICE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(compute_here(options.here)))
        return
    file, found = file_of(options.device), compute(options.device)
    golden = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    golden[found.pop("class")] = found
    file.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{file}: values of {len(golden)} class(es) of kernels")


if __name__ == "__main__":
    main()
