"""Attention's probes: whether a form has a backward of fixed bits on a device, and which bits.

Asked by computing, at the job's own length: a backward that adds by atomics gives equal bits now
and then, the more often the shorter the sequence.

Legend: B sequences, N heads, M heads of keys and values, T tokens, D size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.deadlines import DEADLINES
from dougong.fingerprint.bench import Bench, Repeats, measure_often
from dougong.fingerprint.record import CANNOT_RUN, NO_KERNEL, UNSTABLE
from dougong.models.library.attention_forms import FORMS, has_flash

TIMES = 20
"""How often a backward is computed: at 1024 tokens a racing one gives other bits in most runs."""
_MOST_ON_PROCESSOR = 512
"""Tokens: nothing races there, and 2,048 of them take five seconds of a core."""
_HEADS = 2

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Causal self-attention of q [B, N, T, D] and k, v [B, M, T, D]; [B, N, T, D]."""


@dataclass(frozen=True)
class AttentionSize:
    """Tokens of a sequence, the size of a head, and whether several heads share keys and values."""

    tokens: int
    head_size: int = 64
    is_grouped: bool = False


@dataclass(frozen=True)
class AttentionAnswer:
    """What was found of one form. `runs`: it has a forward and a backward here; `words`: why it
    does not, or that it gave two answers; empty where it is sound. `bits`: their hash, as a probe
    has it; `times`: how often it was computed."""

    form: str
    runs: bool
    is_deterministic: bool
    words: str = ""
    bits: str = ""
    times: int = 0


def ask_attention(
    form: str, device: torch.device, dtype: torch.dtype, length: int, times: int = TIMES
) -> AttentionAnswer:
    """Compute a form's forward and backward `times` times over `length` tokens on an opened device,
    and compare the bits.

    `form`: a key of `FORMS`. A form that this device cannot run is no error: the answer says so.
    """
    return ask(Bench(device), form, dtype, AttentionSize(length), Repeats(times))


def is_deterministic(
    form: str, device: torch.device, dtype: torch.dtype, length: int, times: int = TIMES
) -> bool:
    """Whether the form runs on the device and gives the same bits every time."""
    return ask_attention(form, device, dtype, length, times).is_deterministic


def first_sound(
    forms: Iterable[str], bench: Bench, dtype: torch.dtype, size: AttentionSize
) -> list[AttentionAnswer]:
    """What was found of the forms, up to the first that is deterministic on this device: it is the
    last of the list, unless there is none."""
    answers = []
    for form in forms:
        answers.append(ask(bench, form, dtype, size, repeats_on(bench.device)))
        if answers[-1].is_deterministic:
            break
    return answers


def repeats_on(device: torch.device) -> Repeats:
    """A processor has no race to find, and its time is everybody's."""
    limit = DEADLINES.attention_probe_s
    return Repeats(TIMES, limit) if device.type == "cpu" else Repeats(TIMES)


def probed_size(device: torch.device, size: AttentionSize) -> AttentionSize:
    """The job's own, on a processor up to a length that does not hold up the start."""
    if device.type != "cpu":
        return size
    tokens = min(size.tokens, _MOST_ON_PROCESSOR)
    return AttentionSize(tokens, size.head_size, size.is_grouped)


def ask(
    bench: Bench, form: str, dtype: torch.dtype, size: AttentionSize, repeats: Repeats
) -> AttentionAnswer:
    """As `ask_attention`, of heads of the job's own size."""
    try:
        _refuse_flash(form, dtype)
        compute = attention_of(form)
        found = measure_often(partial(_both_ways, bench, compute, dtype, size), repeats)
    except (ImportError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [""]
        words = f"{type(error).__name__}: {lines[0]}"
        return AttentionAnswer(form, False, False, words, f"{CANNOT_RUN}{words}")
    if found.answer == NO_KERNEL:
        return AttentionAnswer(form, False, False, "no kernel", NO_KERNEL)
    if found.answer == UNSTABLE:
        words = f"other bits at repetition {found.times} of {repeats.times}"
        return AttentionAnswer(form, True, False, words, UNSTABLE, found.times)
    return AttentionAnswer(form, True, True, "", found.answer, found.times)


def _refuse_flash(form: str, dtype: torch.dtype) -> None:
    """transformers would say this late, or fetch code from elsewhere."""
    if form == "flash" and dtype == torch.float32:
        raise ValueError("flash_attn computes in half precision alone")
    if form == "flash" and not has_flash():
        raise ImportError("the package flash_attn is not installed")


def attention_of(form: str) -> Attention:
    """The form as transformers' models call it. ValueError for a name that is no form."""
    if form not in FORMS:
        raise ValueError(f"attention {form}: known forms are {', '.join(FORMS)}")
    if form == "eager":
        return eager
    return _fused if form == "sdpa" else partial(_by_registry, FORMS[form])


def eager(q_BNTD: Tensor, k_BMTD: Tensor, v_BMTD: Tensor) -> Tensor:
    """Attention of products and a softmax (Vaswani et al. 2017, arXiv 1706.03762, eq. 1), causal;
    the softmax in float32, as transformers' eager form."""
    length, size = q_BNTD.shape[-2:]
    repeats = q_BNTD.shape[1] // k_BMTD.shape[1]
    k_BNTD, v_BNTD = (tensor.repeat_interleave(repeats, 1) for tensor in (k_BMTD, v_BMTD))
    scores = q_BNTD @ k_BNTD.transpose(-1, -2) * size**-0.5
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(future, torch.finfo(scores.dtype).min)
    wide = torch.promote_types(scores.dtype, torch.float32)
    output_BNTD: Tensor = scores.softmax(-1, dtype=wide).to(q_BNTD.dtype) @ v_BNTD
    return output_BNTD


def _fused(q_BNTD: Tensor, k_BMTD: Tensor, v_BMTD: Tensor) -> Tensor:
    grouped = q_BNTD.shape[1] != k_BMTD.shape[1]
    output: Tensor = F.scaled_dot_product_attention(
        q_BNTD, k_BMTD, v_BMTD, is_causal=True, enable_gqa=grouped
    )
    return output


def _both_ways(
    bench: Bench, compute: Attention, dtype: torch.dtype, size: AttentionSize
) -> tuple[Tensor, ...]:
    own = (1, _HEADS, size.tokens, size.head_size)
    shared = (1, 1 if size.is_grouped else _HEADS, size.tokens, size.head_size)
    shapes = {"q": own, "k": shared, "v": shared}
    leaves = [bench.leaf(name, *shape, dtype=dtype) for name, shape in shapes.items()]
    return bench.with_gradients(compute(*leaves), *leaves)


class _Layer(nn.Module):
    """What the registry's functions read of the layer that calls them."""

    is_causal = True

    def __init__(self, name: str, num_key_value_groups: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation=name)
        self.num_key_value_groups = num_key_value_groups


def _by_registry(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    function: Any = ALL_ATTENTION_FUNCTIONS[name]
    layer = _Layer(name, q.shape[1] // k.shape[1])
    output: Tensor = function(layer, q, k, v, None, dropout=0.0, scaling=q.shape[-1] ** -0.5)[0]
    return output.transpose(1, 2)  # the registry's functions give [B, T, N, D]
