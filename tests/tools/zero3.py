"""A tiny model trained by DeepSpeed itself, ZeRO 3 on the processor: python -m tests.tools.zero3 FOLDER

FOLDER/checkpoint is what it saves, FOLDER/weights.pt the same weights as DeepSpeed's own tool reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from tests.families import tiny_config
from transformers import AutoModelForCausalLM

import deepspeed

STEPS = 3


def main(folder: Path) -> None:
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("qwen3_moe")).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    settings = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": 3},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 1.0,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    ids = torch.randint(3, 256, (2, 16), generator=torch.Generator().manual_seed(1))
    for _ in range(STEPS):
        engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss)
        engine.step()
    engine.save_checkpoint(str(folder / "checkpoint"), tag="last")
    torch.save(get_fp32_state_dict_from_zero_checkpoint(str(folder / "checkpoint")), folder / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
