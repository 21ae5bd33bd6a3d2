"""Adapters alone, as peft reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.errors import SourceError
from dougong.tools.export import export_adapters, export_merged
from peft import PeftModel
from safetensors.torch import load_file
from tests.tuned_runs import BASE, saved
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("targets", [["*.experts.down_proj"], ["*.q_proj.weight", "*.experts.*"], ["*.o_proj.*"]])
def test_plain_peft_computes_what_was_trained(targets: list[str], tmp_path: Path) -> None:
    lora = {"rank": 2, "alpha": 3.0, "targets": targets}
    checkpoint = saved(tmp_path, model={"path": str(tmp_path / BASE), "lora": lora})
    export_adapters(checkpoint, tmp_path / "adapter")
    export_merged(checkpoint, tmp_path / "merged", "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / BASE)
    ids = torch.arange(3, 35).view(2, 16)
    with torch.no_grad():
        plain = base(ids).logits
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")(ids).logits
        torch.testing.assert_close(merged(ids).logits, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, theirs, atol=1e-3)


def test_adapters_may_be_written_in_bfloat16(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    export_adapters(checkpoint, tmp_path / "wide")
    export_adapters(checkpoint, tmp_path / "half", "bfloat16")
    wide, half = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("wide", "half"))
    assert wide.keys() == half.keys()
    assert all(torch.equal(half[key], tensor.bfloat16()) for key, tensor in wide.items())


def test_a_model_that_is_more_than_its_adapters_is_refused(tmp_path: Path) -> None:
    model = {"path": str(tmp_path / BASE), "lora": {"rank": 2}, "freeze": ["*", "!*norm*"]}
    checkpoint = saved(tmp_path, model=model)
    with pytest.raises(SourceError, match=r"more than adapters was trained .*norm.*export it without --adapter"):
        export_adapters(checkpoint, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
