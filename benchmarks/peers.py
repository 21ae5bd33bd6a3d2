"""The peers of expert_parallel.py: the same model, batch and optimizer on two workers, by others' expert parallelism.

Each peer is built from the same initial values as ours and trains on the same tokens. A worker takes the sequences of
both its lanes at once, so a peer makes as many passes a step as we do, over as many tokens each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.job.schema import Job
from dougong.training.optimizers.lr_schedule import learning_rate
from tests.jobs import tokens
from tests.reference import reference_model

WORKERS = 2

Step = Callable[[int], float]
"""step(number) trains one step on this worker's share of its tokens; returns the mean loss of that share."""


@dataclass(frozen=True)
class Setting:
    """What every contestant is given. `scratch` is a directory that both workers see."""

    job: Job
    rank: int
    lanes: tuple[int, ...]
    scratch: Path

    def passes(self, step: int) -> list[Tensor]:
        """Token ids [lanes of this worker * microbatch_size, sequence_length] of each pass of a step."""
        numbers = range(self.job.batch.microbatches)
        return [torch.cat([tokens(self.job, step, lane, m) for lane in self.lanes]) for m in numbers]

    def rate(self, step: int) -> float:
        return learning_rate(self.job.schedule, self.job.optimizer.lr, step, self.job.steps)


def deepspeed_moe(setting: Setting) -> Step:
    """DeepSpeed-MoE (Rajbhandari et al. 2022, arXiv 2201.05596): `deepspeed.moe.layer.MoE` in place of each layer's
    router and experts, no token dropped, so that every expert is padded to the fullest one's number of rows."""
    model: Any = reference_model(setting.job)
    for layer in model.model.layers:
        layer.mlp = DeepSpeedMoE(layer.mlp, model.config, setting.rank)
    return _engine_step(setting, model, {})


def deepspeed_autoep(setting: Setting) -> Step:
    """DeepSpeed's newer AutoEP: transformers' model with its experts replaced, tokens by all-to-all, nothing padded
    beyond multiples of 8 rows."""
    model = reference_model(setting.job)
    for module in model.modules():
        if hasattr(module, "_can_record_outputs"):  # AutoEP 0.19.8 fails on transformers 5.23's form of these, and
            module._can_record_outputs = {}  # nobody here records router logits
    expert_parallel = {"enabled": True, "autoep_size": WORKERS, "preset_model": "qwen3_moe"}
    return _engine_step(setting, model, {"expert_parallel": expert_parallel})


def transformers_ep(setting: Setting) -> Step:
    """transformers' own expert parallelism by all-to-all, the rest of the model under FSDP2 as it requires."""
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if setting.rank == 0:
        reference_model(setting.job).save_pretrained(setting.scratch)  # type: ignore[operator]
    dist.barrier()
    how = DistributedConfig(fsdp_size=WORKERS, ep_size=WORKERS, ep_implementation="all_to_all")
    model = AutoModelForCausalLM.from_pretrained(setting.scratch, dtype=torch.float32, distributed_config=how).train()
    adamw = _adamw(setting.job, _groups(setting.job, model))
    count = setting.job.batch.microbatches

    def step(number: int) -> float:
        _set_rate(adamw, setting.rate(number))
        losses = []
        for place, ids in enumerate(setting.passes(number)):
            model.set_requires_gradient_sync(place == count - 1)
            loss = model(input_ids=ids, labels=ids).loss
            (loss / count).backward()
            losses.append(loss.detach())
        _clip(model, setting.job.optimizer.clip_norm)
        adamw.step()
        adamw.zero_grad()
        return float(torch.stack(losses).mean())

    return step


PEERS: Mapping[str, Callable[[Setting], Step]] = {
    "deepspeed-moe": deepspeed_moe,
    "deepspeed-autoep": deepspeed_autoep,
    "transformers": transformers_ep,
}


class DeepSpeedMoE(nn.Module):
    """A transformers qwen3_moe block as DeepSpeed-MoE has it, with the block's own values. `config.norm_topk_prob`
    must hold, since DeepSpeed's gate always divides the chosen weights by their sum."""

    def __init__(self, block: Any, config: Any, rank: int) -> None:
        from deepspeed.moe.layer import MoE

        super().__init__()
        assert config.norm_topk_prob, "DeepSpeed's gate normalises the weights of the chosen experts"
        expert = SwiGLU(config.hidden_size, config.moe_intermediate_size)
        how = {
            "ep_size": WORKERS,
            "k": config.num_experts_per_tok,
            "drop_tokens": False,
            "use_rts": False,
        }
        self.moe = MoE(config.hidden_size, expert, num_experts=config.num_experts, **how)
        layer = self.moe.deepspeed_moe
        with torch.no_grad():
            layer.gate.wg.weight.copy_(block.gate.weight)
            for local, module in enumerate(layer.experts.deepspeed_experts):
                expert_number = rank * layer.num_local_experts + local
                module.gate_up.weight.copy_(block.experts.gate_up_proj[expert_number])
                module.down.weight.copy_(block.experts.down_proj[expert_number])

    def forward(self, hidden: Tensor) -> Tensor:
        answer: Tensor = self.moe(hidden)[0]
        return answer


class SwiGLU(nn.Module):
    """One expert, with gate and up in one matrix as transformers keeps them."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * inner_size, bias=False)
        self.down = nn.Linear(inner_size, hidden_size, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        gate, up = self.gate_up(rows).chunk(2, dim=-1)
        answer: Tensor = self.down(F.silu(gate) * up)
        return answer


def _engine_step(setting: Setting, model: Any, more: Mapping[str, Any]) -> Step:
    """A DeepSpeed engine with ZeRO stage 1: each worker keeps and updates a share of the optimizer's state, as ours."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    logging.disable(logging.WARNING)
    import deepspeed
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer as split

    batch = setting.job.batch
    config = {
        "train_micro_batch_size_per_gpu": len(setting.lanes) * batch.microbatch_size,
        "gradient_accumulation_steps": batch.microbatches,
        "gradient_clipping": setting.job.optimizer.clip_norm or 0.0,
        "zero_optimization": {"stage": 1},
        "steps_per_print": 10**9,
        **more,
    }
    engine, adamw, _, _ = deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()),
        optimizer=lambda _: _adamw(setting.job, split(_groups(setting.job, model))),
        config=config,
    )

    def step(number: int) -> float:
        _set_rate(adamw, setting.rate(number))
        losses = []
        for ids in setting.passes(number):
            loss = engine(input_ids=ids, labels=ids).loss
            engine.backward(loss)
            engine.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    return step


def _groups(job: Job, model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.dim() >= 2]
    others = [p for p in parameters if p.dim() < 2]
    decay = job.optimizer.weight_decay
    return [
        {"name": "matrices", "params": matrices, "weight_decay": decay},
        {"name": "others", "params": others, "weight_decay": 0.0},
    ]


def _adamw(job: Job, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    settings = job.optimizer
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def _set_rate(adamw: Any, rate: float) -> None:
    for group in adamw.param_groups:
        group["lr"] = rate


def _clip(model: nn.Module, limit: float | None) -> None:
    """Global norm over FSDP's shards and the experts, which lie on two meshes that torch's own function cannot mix."""
    if limit is None:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
    square = torch.stack(torch._foreach_norm(local)).square().sum()
    dist.all_reduce(square)
    torch._foreach_mul_(local, torch.clamp(limit / (square.sqrt() + 1e-6), max=1.0))
