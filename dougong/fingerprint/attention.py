"""Whether a form of attention has a backward of fixed bits on a device: asked by computing.

Legend: B sequences, N heads, T tokens, D size of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.accelerators.base import strictly_deterministic
from dougong.fingerprint.bench import Bench

FORMS = {
    "eager": "eager",
    "sdpa": "sdpa",
    "flash": "flash_attention_2",
    "flex": "flex_attention",
}
"""What a job file calls a form -> what transformers' registry calls it."""
TIMES = 20
"""How often a backward is computed: at 1024 tokens a racing one gives other bits in most runs."""

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Causal self-attention of q, k, v [B, N, T, D]; [B, N, T, D]."""


@dataclass(frozen=True)
class AttentionAnswer:
    """What was found of one form. `runs`: it has a forward and a backward here; `words`: why it
    does not, or which of them gave two answers; empty where it is sound."""

    form: str
    runs: bool
    is_deterministic: bool
    words: str = ""


def ask_attention(
    form: str, device: torch.device, dtype: torch.dtype, length: int, times: int = TIMES
) -> AttentionAnswer:
    """Compute a form's forward and backward `times` times over `length` tokens on an opened device,
    under the switches that a training step sets for it, and compare the bits.

    `form`: a key of `FORMS`. A form that this device cannot run is no error: the answer says so.
    """
    bench = Bench(device)
    leaves = [bench.leaf(name, 1, 2, length, 64, dtype=dtype) for name in "qkv"]
    first: tuple[Tensor, ...] | None = None
    try:
        compute = attention_of(form)
        with strictly_deterministic():
            for number in range(times):
                found = bench.with_gradients(compute(*leaves), *leaves)
                if first is not None and not all(map(torch.equal, first, found)):
                    words = f"other bits at repetition {number + 1} of {times}"
                    return AttentionAnswer(form, True, False, words)
                first = first or found
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        words = (str(error).strip().splitlines() or [""])[0]
        return AttentionAnswer(form, False, False, f"{type(error).__name__}: {words}")
    return AttentionAnswer(form, True, True)


def is_deterministic(
    form: str, device: torch.device, dtype: torch.dtype, length: int, times: int = TIMES
) -> bool:
    """Whether the form runs on the device and gives the same bits every time."""
    return ask_attention(form, device, dtype, length, times).is_deterministic


def attention_of(form: str) -> Attention:
    """The form as transformers' models call it. ValueError for a name that is no form."""
    if form not in FORMS:
        raise ValueError(f"attention {form}: known forms are {', '.join(FORMS)}")
    if form == "eager":
        return eager
    if form == "sdpa":
        return partial(F.scaled_dot_product_attention, is_causal=True)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return partial(_by_registry, ALL_ATTENTION_FUNCTIONS[FORMS[form]])


def eager(q_BNTD: Tensor, k_BNTD: Tensor, v_BNTD: Tensor) -> Tensor:
    """Attention of products and a softmax (Vaswani et al. 2017, arXiv 1706.03762, eq. 1), causal;
    the softmax in float32, as transformers' eager form."""
    length, size = q_BNTD.shape[-2:]
    scores = q_BNTD @ k_BNTD.transpose(-1, -2) * size**-0.5
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(future, torch.finfo(scores.dtype).min)
    wide = torch.promote_types(scores.dtype, torch.float32)
    mixed_BNTD: Tensor = scores.softmax(-1, dtype=wide).to(q_BNTD.dtype) @ v_BNTD
    return mixed_BNTD


class _Layer(nn.Module):
    """What the registry's functions read of the layer that calls them."""

    is_causal = True
    num_key_value_groups = 1


def _by_registry(function: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scaling = q.shape[-1] ** -0.5
    output_BTND: Tensor = function(_Layer(), q, k, v, None, dropout=0.0, scaling=scaling)[0]
    return output_BTND.transpose(1, 2)
