"""What a router does, found by watching it at work on made-up tokens.

A copy of the block that holds router and experts, with made-up weights and a recorder in place of
the experts, is called. What the recorder is given says how many experts a token has and with which
weights; beside the router's outputs that says how scores are made from logits, and whether an
untrained tensor moves the choice (a balance bias, as in DeepSeek-V3).

Legend: T tokens, K choices per token, H hidden size, N experts that a router chooses from (those
that compute nothing included).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.models.probing import fill, without_memory
from dougong.models.sites import Site
from dougong.ops import counter_rng

NUM_PROBES = 64
"""Made-up tokens of a probe."""

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: torch.softmax(logits, -1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda logits: torch.nn.functional.softplus(logits).sqrt(),
}
"""Scores from logits [T, N], by name."""

# Added to one expert's score it wins against all others, whose scores are near one; and as a weight
# it would be seen.
_LARGE_BIAS = 1e3
_LARGEST_WEIGHT = 100.0
# Scores are compared in float32, after the family's own normalisation.
_RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Chooser:
    """What was found of one site's router.

    router: the module's name; num_experts: N; num_choices: K; logits_at: which of its outputs is
    logits [T, N] (None: none); score: a key of `SCORES` (None: none fits); bias: the name of the
    tensor that moves its choice alone (None: it has none); by_vector: whether it chooses by the
    token's vector (a hash router does not).
    """

    router: str
    num_experts: int
    num_choices: int
    logits_at: int | None
    score: str | None
    bias: str | None
    by_vector: bool

    def scores(self, logits_TN: Tensor) -> Tensor:
        """Scores [T, N] in float32, before a bias moves the choice. A token's need not add up to
        one."""
        assert self.score is not None
        return SCORES[self.score](logits_TN.float())


def probe_router(block: nn.Module, router: str, site: Site, hidden_size: int) -> Chooser:
    """Watch the router called `router` inside `block`, which may be on meta and is not changed.

    Names in the result are those inside the block. Raises `ModelError` when the block cannot be
    called.
    """
    return _RouterProbe(block, router, site, hidden_size).ask()


class _RouterCall(Exception):
    """The experts were called: with these choices [T, K] and weights [T, K].

    Raised, since nothing after the experts is of interest, and little of it would run.
    """

    def __init__(self, index: Tensor, weights: Tensor) -> None:
        self.index_TK = index.reshape(-1, index.shape[-1])
        self.weights_TK = weights.reshape(-1, weights.shape[-1])


class _RoutingRecorder(nn.Module):
    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor, *_: Any, **__: Any) -> Tensor:
        raise _RouterCall(index, weights)


class _RouterProbe:
    """A block's copy with made-up weights, and what is asked of it."""

    def __init__(self, block: nn.Module, router: str, site: Site, hidden_size: int) -> None:
        self._site, self._name, self._hidden_size = site, router, hidden_size
        self._block = _router_alone(block, router)
        fill(self._block)
        self._outputs: tuple[Any, ...] = ()
        self._block.get_submodule(router).register_forward_hook(self._keep_outputs)

    def ask(self) -> Chooser:
        first = self._call(1)
        logits_at = self._find_logits(len(first.index_TK))
        num_experts, score = self._site.num_experts, None
        if logits_at is not None:
            logits_TN = self._outputs[logits_at]
            num_experts = max(num_experts, logits_TN.shape[-1])
            score = _matching_score(logits_TN, first)
        # A router that ignores the vectors chooses the same for other vectors; what it calls
        # scores then says nothing of its choice.
        by_vector = not torch.equal(first.index_TK, self._call(2).index_TK)
        return Chooser(
            router=self._name,
            num_experts=num_experts,
            num_choices=first.index_TK.shape[-1],
            logits_at=logits_at,
            score=score if by_vector else None,
            bias=self._find_bias(num_experts, first.index_TK),
            by_vector=by_vector,
        )

    def _call(self, draw: int) -> _RouterCall:
        """What the experts are given for made-up tokens; another `draw` makes up other vectors, the
        token ids are all zero."""
        shape = (1, NUM_PROBES, self._hidden_size)
        hidden = torch.from_numpy(counter_rng.normal(shape, draw, "probe")).float()
        where = f"router: {type(self._block).__name__} of {self._site.name}"
        try:
            with torch.no_grad():
                self._block(hidden, **self._token_ids())
        except _RouterCall as call:
            return call
        except Exception as error:
            raise ModelError(
                f"{where} cannot be watched at work: {error}; "
                "this family's load cannot be balanced: leave `router` out"
            ) from error
        raise ModelError(f"{where} does not call its experts")

    def _token_ids(self) -> dict[str, Tensor]:
        """For a block that asks for them: a router may choose by the token's id."""
        if "input_ids" not in inspect.signature(self._block.forward).parameters:
            return {}
        return {"input_ids": torch.zeros(1, NUM_PROBES, dtype=torch.int64)}

    def _keep_outputs(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._outputs = output if isinstance(output, tuple) else (output,)

    def _find_logits(self, num_tokens: int) -> int | None:
        """The first output with one value for each token and expert. Experts that compute nothing
        have a column too, so there may be more columns than computing experts."""
        for number, output in enumerate(self._outputs):
            if not isinstance(output, Tensor) or not output.is_floating_point():
                continue
            num_experts = output.shape[-1]
            if num_experts >= self._site.num_experts and output.numel() == num_tokens * num_experts:
                return number
        return None

    def _find_bias(self, num_experts: int, before_TK: Tensor) -> str | None:
        """The untrained tensor of N values that, raised for one expert, sends every token there,
        whose weights stay those of the scores without it.

        Both halves are needed: a tensor that is added to the scores for good would send every token
        there too, but with a weight that tells of it.
        """
        last = self._site.num_experts - 1
        if _all_choose(before_TK, last):
            return None
        for name, tensor in [*self._block.named_parameters(), *self._block.named_buffers()]:
            if tensor.requires_grad or not tensor.is_floating_point():
                continue
            if tensor.numel() == num_experts and self._is_bias(tensor, last):
                return name
        return None

    def _is_bias(self, tensor: Tensor, expert: int) -> bool:
        values = tensor.detach().view(-1)
        values[expert] = _LARGE_BIAS
        call = self._call(1)
        values[expert] = 0.0
        largest = float(call.weights_TK.abs().max())
        return _all_choose(call.index_TK, expert) and largest < _LARGEST_WEIGHT


def _all_choose(index_TK: Tensor, expert: int) -> bool:
    return bool((index_TK == expert).any(-1).all())


def _router_alone(block: nn.Module, router: str) -> nn.Module:
    """A copy of the block with a copy of its router, a recorder for experts, nothing for the
    rest."""
    copied = without_memory(block)
    for name in copied._modules:
        copied._modules[name] = nn.Identity()
    copied._modules["experts"] = _RoutingRecorder()
    copied._modules[router] = copy.deepcopy(block.get_submodule(router))
    return copied


def _matching_score(logits: Tensor, call: _RouterCall) -> str | None:
    """Which scores the experts' weights are, up to a factor.

    A family may normalise the chosen weights and scale them, so each token has a factor of its own:
    the ratio of weight to score must be the same for all choices of a token. With a single choice
    there is nothing to compare inside a token; nothing is normalised then, and the factor is the
    same for all tokens.
    """
    logits_TN = logits.reshape(len(call.index_TK), -1).float()
    for name, score in SCORES.items():
        ratio_TK = call.weights_TK / score(logits_TN).gather(1, call.index_TK)
        if ratio_TK.shape[1] == 1:
            ratio_TK = ratio_TK.t()
        spread = (ratio_TK - ratio_TK[:, :1]).abs().max()
        if bool(spread <= _RELATIVE_TOLERANCE * ratio_TK.abs().max()):
            return name
    return None
