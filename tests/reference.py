"""What a run is judged against: the same transformers model trained by a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from dougong.job.schema import Job
from dougong.models.build import build_on_meta, initial_expert, materialise
from dougong.models.configs.load import load_config
from dougong.models.sites import Site, expert_op, find_sites
from dougong.models.ties import break_ties_by_index
from dougong.ops import permute as ops
from dougong.ops.experts.base import Block
from dougong.training.optimizers.lr_schedule import learning_rate
from tests.jobs import VOCAB, tokens
from tests.parallel.workers import blocks_of
from torch import Tensor, nn


def reference_model(job: Job) -> nn.Module:
    """The unmodified model, experts and all, with the same initial values; transformers' own eager experts."""
    config = load_config(job.model, VOCAB)
    config._experts_implementation = "eager"
    model = build_on_meta(config)
    sites = find_sites(model)
    materialise(model, torch.device("cpu"), job.seed)
    for site in sites:
        experts = [
            initial_expert(model, site, e, job.seed, torch.device("cpu")) for e in range(max(site.num_rows.values()))
        ]
        for name in site.shapes:
            rows = [e[name] for e in experts if name in e]
            setattr(site.module, name, nn.Parameter(torch.stack(rows)))
    return model


def train_plainly(job: Job, model: nn.Module, steps: int) -> list[float]:
    """Train by the plain loop; losses per step."""
    step = plain_step(job, model)
    return [step(number) for number in range(1, steps + 1)]


def plain_step(job: Job, model: nn.Module) -> Callable[[int], float]:
    """One step of a plain loop: all micro-batches' `loss.backward()`, clip, AdamW with decay on matrices; the loss."""
    sites = [n for n, _ in model.named_modules() if n.split(".")[-1] == "experts"]
    ranks = {n: p.dim() - n.startswith(tuple(f"{s}." for s in sites)) for n, p in model.named_parameters()}
    settings = job.optimizer
    matrices = [p for n, p in model.named_parameters() if ranks[n] >= 2]
    others = [p for n, p in model.named_parameters() if ranks[n] < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)

    def run(step: int) -> float:
        for group in adamw.param_groups:
            group["lr"] = learning_rate(job.schedule, settings.lr, step, job.steps)
        loss = accumulate_plainly(job, model, step)
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        adamw.step()
        adamw.zero_grad()
        return loss

    return run


def accumulate_plainly(job: Job, model: Any, step: int) -> float:
    """Forward and `loss.backward()` of every micro-batch of a step; returns the mean loss."""
    count = job.batch.lanes * job.batch.microbatches
    total = 0.0
    for lane in range(job.batch.lanes):
        for microbatch in range(job.batch.microbatches):
            ids = tokens(job, step, lane, microbatch).to(model.device)
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            (loss / count).backward()
            total += float(loss.detach())
    return total / count


def run_plainly(job: Job, model: Any, microbatch: int = 0) -> float:
    """Loss and `loss.backward()` of one micro-batch of the first step."""
    ids = tokens(job, 1, 0, microbatch)
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss  # as training calls it: the same graph
    loss.backward()
    return float(loss.detach())


def reference_gradients(model: nn.Module, sites: list[Site]) -> dict[str, Tensor]:
    """By tensor name, experts one by one; zero where the engine left none."""
    inside = {f"{s.name}.{p}": s for s in sites for p in s.shapes}
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if name in inside:
            found |= {f"{name}[{e}]": gradient[e] for e in range(8)}
        elif parameter.requires_grad:
            found[name] = gradient
    return found


def compute_experts_alike(model: nn.Module, sites: list[Site]) -> None:
    """Give the reference our arithmetic: the router's rule for ties, and experts as one autograd function that the
    engine runs in one piece."""
    break_ties_by_index(model, sites)
    for site in sites:
        op = expert_op(site, torch.device("cpu"))
        names = list(site.shapes)
        module = site.module

        def forward(
            h: Tensor, index: Tensor, w: Tensor, *_: Any, op=op, names=names, module=module, site=site
        ) -> Tensor:
            flat = h.reshape(-1, h.shape[-1])
            parameters = [getattr(module, n) for n in names]
            function = _Experts.apply(flat, index.reshape(-1, index.shape[-1]), w, (op, names, site), *parameters)
            return function.view(h.shape)

        module.forward = forward


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, index: Tensor, w: Tensor, how: Any, *parameters: Tensor) -> Tensor:
        op, names, site = how
        routing = ops.make_routing(index, site.num_experts, site.has_identity_experts)
        rows = ops.permute(h, routing)
        answers = torch.empty_like(rows)
        blocks = blocks_of(range(site.num_experts), {0: routing.counts_E.tolist()})
        saved = op.forward(rows, blocks, _by_expert(names, parameters, blocks), answers)
        ctx.how, ctx.kept = how, (h, w, routing, answers, saved, blocks, parameters)
        return ops.unpermute(answers, h, w, routing)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Any:
        op, names, _ = ctx.how
        h, w, routing, answers, saved, blocks, parameters = ctx.kept
        danswers, dw = combine_backward(dout, answers, h, w, routing)
        drows = torch.empty_like(danswers)
        grads = [torch.zeros_like(p) for p in parameters]
        into = _by_expert(names, grads, blocks)
        op.backward(danswers, saved, _by_expert(names, parameters, blocks), into, drows)()
        return ops.permute_backward(drows, dout, w, routing), None, dw, None, *grads


def combine_backward(
    dout_TH: Tensor, outputs_RH: Tensor, hidden_TH: Tensor, weights_TK: Tensor, routing: ops.Routing
) -> tuple[Tensor, Tensor]:
    """Gradients of `unpermute` on one worker: of the experts' outputs [R, H] and of the weights [T, K].

    The definition; where attention and experts are different workers, each side computes its part of it.
    """
    dout_RH = ops.permute(dout_TH, routing)
    doutputs_RH = ops.weigh_rows(dout_RH, ops.weights_of_rows(weights_TK, routing))
    dweights_R = ops.products_of_rows(dout_RH, outputs_RH)
    return doutputs_RH, ops.weights_backward(dweights_R, dout_TH, hidden_TH, weights_TK, routing)


def _by_expert(
    names: Sequence[str], stacked: Sequence[Tensor], blocks: Sequence[Block]
) -> dict[int, dict[str, Tensor]]:
    return {b.expert: {n: t[b.expert] for n, t in zip(names, stacked, strict=True)} for b in blocks}
