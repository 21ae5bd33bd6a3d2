"""Fine-tuning on chats comes to the losses of TRL's own trainer, of all tensors and of peft's adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from dougong.data.windows import open_data
from dougong.job.schema import Job
from dougong.training.forwards import Forwards
from tests.chats import MARKED, chat_tokenizer, many, write_chats
from tests.jobs import make_job, make_rig
from tests.tuned_runs import base_folder, peft_of
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

VOCAB, LR, STEPS = 320, 1e-3, 3
CHATS = many(48)


def chat_job(folder: Path, **model: Any) -> Job:
    chat_tokenizer(folder / "tokenizer", MARKED)
    write_chats(folder / "chats.jsonl", CHATS)
    base = base_folder(folder, vocab_size=VOCAB, router_aux_loss_coef=0.0)
    files = {"chat": str(folder / "chats.jsonl"), "tokenizer": str(folder / "tokenizer")}
    return make_job(
        model={"path": str(base), **model},
        data={**files, "sequence_length": 128},
        batch={"lanes": 3, "microbatches": 2, "microbatch_size": 2},
        cache=str(folder / "cache"),
        optimizer={"name": "adamw", "lr": LR, "weight_decay": 0.0, "betas": (0.9, 0.95)},
        schedule={"name": "constant"},
    )


def our_losses(job: Job) -> list[float]:
    rig = make_rig(job)
    forwards = Forwards(job, open_data(job, VOCAB), rig.replica.model, range(3), torch.device("cpu"))
    return [rig.stepper.run(step, forwards.of_step(step)).loss for step in range(1, STEPS + 1)]


def in_our_order(job: Job) -> list[dict[str, Any]]:
    """The chats as our steps read them: each is a sequence of its own."""
    data = open_data(job, VOCAB)
    places = [(s, lane, m) for s in range(1, STEPS + 1) for lane in range(3) for m in range(2)]
    return [CHATS[window] for place in places for window in data.windows(*place)]


def trl_losses(job: Job, model: Any, folder: Path) -> list[float]:
    settings = SFTConfig(
        output_dir=str(folder / "trl"),
        max_length=128,
        assistant_only_loss=True,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=6,
        max_steps=STEPS,
        learning_rate=LR,
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_num_workers=0,
        packing=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(job.data.tokenizer)
    rows = Dataset.from_list(in_our_order(job))
    trainer = SFTTrainer(model, settings, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("lora", [False, True], ids=["whole model", "adapters"])
def test_losses_are_those_of_trl(lora: bool, tmp_path: Path) -> None:
    job = chat_job(tmp_path, **({"lora": {"rank": 4, "alpha": 8.0}} if lora else {}))
    model: Any = AutoModelForCausalLM.from_pretrained(job.model.path)
    if lora:
        model = peft_of(job, model, VOCAB)
    theirs, ours = trl_losses(job, model, tmp_path), our_losses(job)
    assert len(theirs) == STEPS
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours == pytest.approx(theirs, rel=1e-3)
