"""transformers beside a run, on a machine where a vendor's plug-in is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LOOK = """
from dougong.models.library.loading import load_transformers
load_transformers()
from transformers.integrations import sdpa_attention
print(sdpa_attention._is_torch_npu_available)
import torch_npu
"""


def test_it_imports_no_plug_in_and_takes_none_for_there(tmp_path: Path) -> None:
    (tmp_path / "torch_npu.py").write_text("print('imported')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    command = [sys.executable, "-c", LOOK]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["False", "imported"]
