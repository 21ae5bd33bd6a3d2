"""Job files for the launcher's tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
QUICKSTART = ROOT / "examples" / "quickstart.yaml"

SMALL = """\
job: small
model: {family: qwen3_moe, config: {num_experts: 4, num_experts_per_tok: 2}}
data: {text: stdlib}
batch: {lanes: 2}
steps: 10
islands: [{name: east, accelerator: cpu, workers: 2}]
"""


def write(folder: Path, text: str = SMALL, **changes: str) -> Path:
    """`job.yaml` in the folder; each change replaces the text of a top-level line of SMALL (or adds one)."""
    lines = text.splitlines()
    for key, value in changes.items():
        kept = [line for line in lines if not line.startswith(f"{key}:")]
        lines = [*kept, f"{key}: {value}"] if len(kept) == len(lines) else [
            f"{key}: {value}" if line.startswith(f"{key}:") else line for line in lines
        ]  # fmt: skip
    path = folder / "job.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
