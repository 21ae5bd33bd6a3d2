"""Routers: how each site's experts are chosen, found by watching what a router does rather than by
its family's name.

A router is the module called `gate` or `router` beside a site's `experts`. A copy of the block that
holds both, with made-up weights and a recorder in place of the experts, is called on made-up
tokens: what comes out says how scores are made from logits, and whether an untrained tensor moves
the choice (a balance bias, as in DeepSeek-V3).

Legend: T tokens, K choices per token, H hidden size, N experts that a router chooses from (those
that compute nothing included).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.job.schema import Router
from dougong.models.sites import Site
from dougong.ops import counter_rng
from dougong.parallel.segments.flight import note_on_flight

ROUTER_NAMES = ("gate", "router")
NUM_PROBES = 64
"""Made-up tokens of a probe."""

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: torch.softmax(logits, -1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda logits: torch.nn.functional.softplus(logits).sqrt(),
}
"""Scores from logits [T, N], by name."""


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
        """Scores [T, N] in float32, normalised to sum to one over a token's experts."""
        assert self.score is not None
        scores_TN = SCORES[self.score](logits_TN.float())
        return scores_TN if self.score == "softmax" else scores_TN / scores_TN.sum(-1, keepdim=True)


def find_choosers(model: nn.Module, sites: Sequence[Site], settings: Router) -> list[Chooser]:
    """One for each site; none when `settings` ask for nothing. The model may be on meta.

    Raises `ModelError` when the model cannot be balanced as `settings` say, with the reason and
    what can be done.
    """
    if settings == Router():
        return []
    found: dict[tuple[type, type], Chooser] = {}
    choosers = []
    for site in sites:
        block, router = _block_and_router(model, site)
        kinds = type(model.get_submodule(block)), type(model.get_submodule(f"{block}.{router}"))
        if kinds not in found:
            found[kinds] = _RouterProbe(
                model.get_submodule(block), router, site, _hidden_size(model)
            ).ask()
        one = found[kinds]
        bias = None if one.bias is None else f"{block}.{one.bias}"
        choosers.append(Chooser(**{**vars(one), "router": f"{block}.{one.router}", "bias": bias}))
    _refuse(
        str(getattr(getattr(model, "config", None), "model_type", "this model")),
        sites[0],
        choosers,
        settings,
    )
    return choosers


def watch(model: nn.Module, choosers: Sequence[Chooser]) -> None:
    """From now on every forward with gradients notes (site, logits [T, N]) on its flight."""
    for site, chooser in enumerate(choosers):
        if chooser.by_vector:
            model.get_submodule(chooser.router).register_forward_hook(_noting(site, chooser))


def _noting(site: int, chooser: Chooser) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            note_on_flight((site, output[chooser.logits_at].reshape(-1, chooser.num_experts)))

    return hook


def _block_and_router(model: nn.Module, site: Site) -> tuple[str, str]:
    block = site.name.rpartition(".")[0]
    names = [n for n, _ in model.get_submodule(block).named_children() if n in ROUTER_NAMES]
    if len(names) != 1:
        raise ModelError(
            f"router: {site.name} has {len(names)} modules called {' or '.join(ROUTER_NAMES)} beside it, and balancing "
            "needs one; this family's load cannot be balanced: leave `router` out"
        )
    return block, names[0]


def _hidden_size(model: nn.Module) -> int:
    config: Any = model.config
    return int(config.hidden_size)


class _RouterCall(Exception):
    """The experts were called: with these choices [T, K] and weights [T, K]."""

    def __init__(self, index: Tensor, weights: Tensor) -> None:
        self.index, self.weights = (t.reshape(-1, t.shape[-1]) for t in (index, weights))


class _RoutingRecorder(nn.Module):
    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor, *_: Any, **__: Any) -> Tensor:
        raise _RouterCall(index, weights)


class _RouterProbe:
    """A block's copy: the router with made-up weights, a recorder for experts, nothing for the
    rest."""

    def __init__(self, block: nn.Module, router: str, site: Site, hidden_size: int) -> None:
        self._site, self._name, self._hidden_size = site, router, hidden_size
        self._block = _without_memory(block)
        for name in self._block._modules:
            self._block._modules[name] = nn.Identity()
        self._block._modules["experts"] = _RoutingRecorder()
        self._router = copy.deepcopy(block._modules[router])
        self._block._modules[router] = self._router
        self._fill(self._block)
        self._outputs: tuple[Any, ...] = ()
        assert self._router is not None
        self._router.register_forward_hook(self._keep)

    def ask(self) -> Chooser:
        index, weights = self._call(1)
        logits_at = self._find_logits(len(index))
        num_experts = max(
            self._site.num_experts, 0 if logits_at is None else self._outputs[logits_at].shape[-1]
        )
        score = None if logits_at is None else _score(self._outputs[logits_at], index, weights)
        by_vector = not torch.equal(index, self._call(2)[0])
        score = score if by_vector else None
        bias = self._find_bias(num_experts, index)
        return Chooser(self._name, num_experts, index.shape[-1], logits_at, score, bias, by_vector)

    def _call(self, draw: int) -> tuple[Tensor, Tensor]:
        hidden = torch.from_numpy(
            counter_rng.normal((1, NUM_PROBES, self._hidden_size), draw, "probe")
        ).float()
        more = {"input_ids": torch.zeros(1, NUM_PROBES, dtype=torch.int64)}
        known = inspect.signature(self._block.forward).parameters
        try:
            with torch.no_grad():
                self._block(hidden, **{n: v for n, v in more.items() if n in known})
        except _RouterCall as call:
            return call.index, call.weights
        except Exception as error:
            raise ModelError(
                f"router: {type(self._block).__name__} of {self._site.name} cannot be watched at work: {error}; this "
                "family's load cannot be balanced: leave `router` out"
            ) from error
        raise ModelError(
            f"router: {type(self._block).__name__} of {self._site.name} does not call its experts"
        )

    def _keep(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._outputs = output if isinstance(output, tuple) else (output,)

    def _find_logits(self, num_tokens: int) -> int | None:
        for number, output in enumerate(self._outputs):
            if not isinstance(output, Tensor) or not output.is_floating_point():
                continue
            num_experts = output.shape[-1]
            if num_experts >= self._site.num_experts and output.numel() == num_tokens * num_experts:
                return number
        return None

    def _find_bias(self, num_experts: int, before: Tensor) -> str | None:
        """The untrained tensor of N values that, raised for one expert, sends every token there,
        whose weights stay those of the scores without it."""
        last = self._site.num_experts - 1
        for name, tensor in [*self._block.named_parameters(), *self._block.named_buffers()]:
            if (
                tensor.requires_grad
                or tensor.numel() != num_experts
                or not tensor.is_floating_point()
            ):
                continue
            with torch.no_grad():
                tensor.view(-1)[last] = 1e3
                after, weights = self._call(1)
                tensor.view(-1)[last] = 0.0
            everywhere = bool((after == last).any(-1).all()) and not bool(
                (before == last).any(-1).all()
            )
            if everywhere and float(weights.abs().max()) < 100.0:
                return name
        return None

    def _fill(self, block: nn.Module) -> None:
        """Matrices are random, trained vectors one (norms, scales), all else zero."""
        for tensors in [t for m in block.modules() for t in (m._parameters, m._buffers)]:
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = _made_up(tensor)  # type: ignore[assignment]


def _without_memory(block: nn.Module) -> nn.Module:
    """A shallow copy whose tables of modules and tensors are its own; it runs its class's forward,
    not a cut one."""
    copied = copy.copy(block)
    copied.__dict__ = dict(block.__dict__)
    for table in ("_modules", "_parameters", "_buffers"):
        copied.__dict__[table] = dict(getattr(block, table))
    copied.__dict__.pop("forward", None)
    return copied


def _made_up(tensor: Tensor) -> Tensor:
    shape, trained = tuple(tensor.shape), tensor.requires_grad
    if trained and tensor.dim() > 1:
        values = torch.from_numpy(counter_rng.normal(shape, 0, "probe")).float() * shape[-1] ** -0.5
    else:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        values = torch.full(shape, int(trained), dtype=dtype)
    return (
        nn.Parameter(values, requires_grad=trained) if isinstance(tensor, nn.Parameter) else values
    )


def _score(logits: Tensor, index_TK: Tensor, weights_TK: Tensor) -> str | None:
    """Which scores, up to one factor per token, are the weights; a single choice has the same
    factor everywhere."""
    for name, of in SCORES.items():
        ratio_TK = weights_TK / of(logits.reshape(len(index_TK), -1).float()).gather(1, index_TK)
        ratio_TK = ratio_TK.t() if ratio_TK.shape[1] == 1 else ratio_TK
        if bool((ratio_TK - ratio_TK[:, :1]).abs().max() <= 1e-4 * ratio_TK.abs().max()):
            return name
    return None


def _refuse(family: str, site: Site, choosers: Sequence[Chooser], settings: Router) -> None:
    """Raise `ModelError` for what this model cannot do."""
    losses = [n for n in ("sequence_loss", "global_loss") if getattr(settings, n) is not None]
    if settings.bias_rate is not None and not any(c.bias for c in choosers):
        raise ModelError(
            f"router.bias_rate: {family} has no bias that moves a router's choice without being trained; "
            "use router.global_loss (or sequence_loss) instead"
        )
    if losses and site.has_identity_experts:
        raise ModelError(
            f"router.{losses[0]}: {family} has experts that compute nothing, for which this loss is not defined; use "
            "router.bias_rate with router.computing_choices instead"
        )
    if losses and not any(c.by_vector for c in choosers):
        raise ModelError(
            f"router.{losses[0]}: no router of {family}, configured so, looks at a token's vector, so that no loss can "
            "move its choice; remove it"
        )
    unclear = [c.router for c in choosers if c.by_vector and c.score is None]
    if losses and unclear:
        raise ModelError(
            f"router.{losses[0]}: how {unclear[0]} ({family}) makes scores from logits is none of {', '.join(SCORES)}; "
            "use router.bias_rate if the family has such a bias, or leave `router` out"
        )
    _refuse_computing_choices(family, site, choosers, settings)


def _refuse_computing_choices(
    family: str, site: Site, choosers: Sequence[Chooser], settings: Router
) -> None:
    target, most = settings.computing_choices, choosers[0].num_choices
    if settings.bias_rate is not None and site.has_identity_experts and target is None:
        raise ModelError(
            f"router.bias_rate: {family} has experts that compute nothing; say in router.computing_choices how many "
            f"of a token's {most} choices should on average reach one that computes"
        )
    if target is not None and not site.has_identity_experts:
        raise ModelError(f"router.computing_choices: all experts of {family} compute; remove it")
    if target is not None and target > most:
        raise ModelError(
            f"router.computing_choices: {target:g}, but a token has {most} choices; lower it"
        )
