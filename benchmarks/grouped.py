"""Grouped products of experts in Triton, and a whole layer, against torch's grouped product and transformers' experts.

    python benchmarks/grouped.py [--size qwen3-30b-a3b|deepseek-v3|tiny] [--tokens N ...] [--rounds N]

bfloat16, one NVIDIA GPU. Contestants take turns round by round. A layer begins with tokens and their experts and ends
with the sums of their answers, forward and backward; ours adds its weight gradients to float32, the others keep theirs
in bfloat16. Before anything is timed, errors against float64 are printed, and bits are compared over other batches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from dougong.ops.experts.base import Block
from dougong.ops.permute import (
    make_routing,
    permute,
    permute_backward,
    unpermute,
)
from tests.reference import combine_backward

PARAMETERS = ("gate_up_proj", "down_proj")
Run = Callable[[], Any]


@dataclass(frozen=True)
class Size:
    """One layer: hidden size, experts' inner size, experts held here, experts per token."""

    hidden: int
    inner: int
    experts: int
    choices: int


SIZES = {
    "qwen3-30b-a3b": Size(2048, 768, 128, 8),
    # A rank of 8 holds 32 of 256 experts and gets the rows of 8 ranks' tokens: as many as if all chose among its own.
    "deepseek-v3": Size(7168, 2048, 32, 8),
    "tiny": Size(256, 128, 8, 2),
}


class Layer:
    """Weights, gradients, and a batch of `tokens` tokens whose choices are drawn evenly."""

    def __init__(self, size: Size, tokens: int, device: torch.device, op: Any) -> None:
        self.size, self.op = size, op
        draw = torch.Generator(device).manual_seed(0)
        normal = partial(torch.randn, generator=draw, device=device)
        shapes = (2 * size.inner, size.hidden), (size.hidden, size.inner)
        self.weights = {
            name: (normal(size.experts, *shape) * shape[1] ** -0.5).bfloat16()
            for name, shape in zip(PARAMETERS, shapes, strict=True)
        }
        self.grads = {n: torch.zeros_like(t, dtype=torch.float32) for n, t in self.weights.items()}
        self.x_TH, self.dy_TH = (normal(tokens, size.hidden).bfloat16() for _ in range(2))
        scores_TE = torch.rand(tokens, size.experts, generator=draw, device=device)
        weights_TK, self.index_TK = scores_TE.topk(size.choices)
        self.weights_TK = (weights_TK / weights_TK.sum(-1, keepdim=True)).bfloat16()

    def by_expert(self, of: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        return {e: {n: t[e] for n, t in of.items()} for e in range(self.size.experts)}

    def ours(self) -> Run:
        tensors, grads = self.by_expert(self.weights), self.by_expert(self.grads)

        def run() -> tuple[Tensor, Tensor]:
            routing = make_routing(self.index_TK, self.size.experts)
            x_RH = permute(self.x_TH, routing)
            y_RH = torch.empty_like(x_RH)
            saved = self.op.forward(x_RH, blocks_of(routing.counts_E.tolist()), tensors, y_RH)
            out_TH = unpermute(y_RH, self.x_TH, self.weights_TK, routing)
            dy_RH, _ = combine_backward(self.dy_TH, y_RH, self.x_TH, self.weights_TK, routing)
            dx_RH = torch.empty_like(dy_RH)
            self.op.backward(dy_RH, saved, tensors, grads, dx_RH)()
            return out_TH, permute_backward(dx_RH, self.dy_TH, self.weights_TK, routing)

        return run

    def transformers(self, implementation: str) -> Run:
        """transformers' module over the same weights, differentiated by autograd."""
        from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

        size = self.size
        config = Qwen3MoeConfig(
            num_experts=size.experts,
            hidden_size=size.hidden,
            moe_intermediate_size=size.inner,
            hidden_act="silu",
        )
        config._experts_implementation = implementation
        with torch.device("meta"):
            module = Qwen3MoeExperts(config)
        for name, tensor in self.weights.items():
            setattr(module, name, torch.nn.Parameter(tensor))
        x_TH = self.x_TH.clone().requires_grad_()

        def run() -> tuple[Tensor, Tensor]:
            module.zero_grad()
            x_TH.grad = None
            out_TH = module(x_TH, self.index_TK, self.weights_TK)
            out_TH.backward(self.dy_TH)
            assert x_TH.grad is not None
            return out_TH.detach(), x_TH.grad

        return run

    def exact(self) -> tuple[Tensor, Tensor]:
        """Answers and gradients of the tokens in float64, expert by expert."""
        out_TH, dx_TH = (torch.zeros_like(self.x_TH, dtype=torch.float64) for _ in range(2))
        for expert, of in self.by_expert(self.weights).items():
            token_N, choice_N = torch.where(self.index_TK == expert)
            x_NH = self.x_TH[token_N].double().requires_grad_()
            gate_NI, up_NI = (x_NH @ of["gate_up_proj"].double().t()).chunk(2, -1)
            y_NH = (torch.nn.functional.silu(gate_NI) * up_NI) @ of["down_proj"].double().t()
            weight_N1 = self.weights_TK[token_N, choice_N, None].double()
            (dx_NH,) = torch.autograd.grad(y_NH, x_NH, self.dy_TH[token_N].double() * weight_N1)
            out_TH.index_add_(0, token_N, y_NH.detach() * weight_N1)
            dx_TH.index_add_(0, token_N, dx_NH)
        return out_TH, dx_TH


def blocks_of(counts: Sequence[int]) -> list[Block]:
    """One lane's blocks."""
    starts = [sum(counts[:e]) for e in range(len(counts))]
    return [Block(e, 0, start, count) for e, (start, count) in enumerate(zip(starts, counts, strict=True)) if count]


def products(layer: Layer) -> dict[str, dict[str, Run]]:
    """What is compared -> contestant -> one product of all experts, with the layer's first weight."""
    from dougong.ops.experts import triton_kernels as kernels
    from dougong.ops.experts.tile_tables import arrange
    from dougong.ops.experts.triton_swiglu import addresses

    routing = make_routing(layer.index_TK, layer.size.experts)
    x_RH, tiles = permute(layer.x_TH, routing), layer.op.tiles(torch.bfloat16)
    wave = arrange(blocks_of(routing.counts_E.tolist()), tiles.height, x_RH.device)
    w_E2IH, name = layer.weights["gate_up_proj"], "gate_up_proj"
    weights = addresses(wave, layer.by_expert(layer.weights), name, torch.bfloat16)
    grads = addresses(wave, layer.by_expert(layer.grads), name, torch.float32)
    y_R2I = x_RH.new_empty(len(x_RH), w_E2IH.shape[1]).normal_()
    dx_RH = torch.empty_like(x_RH)
    ends_E = routing.counts_E.cumsum(0).to(x_RH.device, torch.int32)
    grouped_mm = torch._grouped_mm
    return {
        "forward": {
            "dougong": lambda: kernels.linear(wave, tiles.linear, x_RH, weights, y_R2I, transposed=True),
            "torch._grouped_mm": lambda: grouped_mm(x_RH, w_E2IH.transpose(1, 2), ends_E),
        },
        "gradient of rows": {
            "dougong": lambda: kernels.linear(wave, tiles.linear, y_R2I, weights, dx_RH, transposed=False),
            "torch._grouped_mm": lambda: grouped_mm(y_R2I, w_E2IH, ends_E),
        },
        "gradient of weights": {
            "dougong": lambda: kernels.weight_gradient(wave, tiles.weight_gradient, y_R2I, x_RH, grads),
            "torch._grouped_mm": lambda: grouped_mm(y_R2I.t(), x_RH, ends_E),
        },
    }


def report_errors(layer: Layer) -> None:
    """Root mean square of the error over that of the exact values."""
    exact = layer.exact()
    for name, run in contestants(layer).items():
        errors = [
            float((a.double() - b).square().mean().sqrt() / b.square().mean().sqrt()) for a, b in zip(run(), exact)
        ]
        print(f"  error against float64: {name:24} answers {errors[0]:.2e}, gradients of tokens {errors[1]:.2e}")


def report_bits(layer: Layer, name: str, run: Run) -> None:
    """Whether the first half of the tokens has the same bits without the second half; and the same bits twice."""
    whole, again = run(), run()
    half = len(layer.x_TH) // 2
    full = layer.x_TH, layer.dy_TH, layer.index_TK, layer.weights_TK
    layer.x_TH, layer.dy_TH, layer.index_TK, layer.weights_TK = (t[:half] for t in full)
    part = contestants(layer)[name]()
    layer.x_TH, layer.dy_TH, layer.index_TK, layer.weights_TK = full
    twice = all(torch.equal(a, b) for a, b in zip(whole, again))
    alone = all(torch.equal(a[:half], b) for a, b in zip(whole, part))
    print(f"  bits of {name}: {say(twice)} in a second run, {say(alone)} for half of the tokens alone")


def say(equal: bool) -> str:
    return "equal" if equal else "DIFFERENT"


def contestants(layer: Layer) -> dict[str, Run]:
    return {
        "dougong": layer.ours(),
        "transformers, grouped_mm": layer.transformers("grouped_mm"),
        "transformers, eager": layer.transformers("eager"),
    }


def compare(title: str, runs: Mapping[str, Run], flops: float, rounds: int) -> None:
    """Time every contestant once a round, and print medians and quartiles; ratios are taken round by round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 3):
        for name, run in runs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            if number >= 3:  # the first rounds compile and warm up
                times[name].append(begin.elapsed_time(end))
    fastest = min((n for n in runs if n != "dougong"), key=lambda n: statistics.median(times[n]))
    for name, of in times.items():
        low, middle, high = statistics.quantiles(of, n=4)
        speed = flops / middle / 1e9
        print(f"  {title}: {name:24} {middle:.3f} ms ({low:.3f} to {high:.3f}), {speed:.0f} TFLOPS")
    ratios = [theirs / ours for ours, theirs in zip(times["dougong"], times[fastest], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"  {title}: ratio to {fastest}: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}")


def measure(size: Size, tokens: int, rounds: int) -> None:
    from dougong.ops.experts.triton_swiglu import make_grouped

    layer = Layer(size, tokens, torch.device("cuda"), make_grouped())
    report_errors(layer)
    for name, run in contestants(layer).items():
        report_bits(layer, name, run)
    one_product = 2.0 * tokens * size.choices * size.hidden * 2 * size.inner
    for title, runs in products(layer).items():
        compare(title, runs, one_product, rounds)
    compare("layer", contestants(layer), 4.5 * one_product, rounds)  # three forward halves, each again twice backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="qwen3-30b-a3b")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/grouped.py needs an NVIDIA GPU and torch's build for CUDA; this process finds none")
    name = torch.cuda.get_device_name()
    print(
        f"{name}, torch {torch.__version__}, {options.size}: {SIZES[options.size]}, bfloat16, {options.rounds} rounds"
    )
    for tokens in options.tokens:
        print(f"{tokens} tokens")
        measure(SIZES[options.size], tokens, options.rounds)


if __name__ == "__main__":
    main()
