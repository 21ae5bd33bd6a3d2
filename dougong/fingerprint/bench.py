"""What every probe stands on: inputs of fixed bits, and the hash of an output's bits."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dougong.fingerprint.record import NO_KERNEL, UNSTABLE, digest
from dougong.ops.mixing import STEP, mix

Probe = Callable[[], Sequence[Tensor]]
"""One computation; called again it makes its inputs anew."""
Probes = Iterator[tuple[str, Probe]]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# A prime a little over 2^20, so that a large matrix does not repeat itself row by row.
_POOL = 1048583


class Bench:
    """Makes inputs on one device.

    Values are multiples of 2^-22 in [-2, 2), made by integer arithmetic on the host: `torch.randn`
    will not do, its own bits depend on the processor's vector width.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        values = torch.from_numpy(_dyadic(_POOL))
        self._pools = {dtype: values.to(dtype).to(device) for dtype in DTYPES.values()}

    @property
    def most_elements(self) -> int:
        """How large a product's result may be so that a fingerprint stays quick."""
        return 1 << 18 if self.device.type == "cpu" else 1 << 24

    def values(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of its own memory. Its bits depend on name, shape and dtype alone."""
        count = int(np.prod(shape))
        pool, start = self._pools[dtype], int(digest(name.encode()), 16) % _POOL
        repeats = -(-(start + count) // _POOL)
        return pool.repeat(repeats)[start : start + count].clone().view(*shape)

    def leaf(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same, for autograd to differentiate by."""
        return self.values(name, *shape, dtype=dtype).requires_grad_()

    def ids(self, count: int, below: int) -> Tensor:
        """Integers [count] in 0 .. below - 1, with repeats."""
        return (((torch.arange(count) * 2654435761) >> 7) % below).to(self.device)

    def with_gradients(self, output: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        """The output, and its gradients for a fixed cotangent."""
        cotangent = self.values("cotangent", *output.shape, dtype=output.dtype)
        return (output, *torch.autograd.grad(output, leaves, cotangent))


@dataclass(frozen=True)
class Repeats:
    """How often a probe is computed: `times`, or as often as `limit_s` seconds allow, but twice at
    least."""

    times: int = 2
    limit_s: float = math.inf


TWICE = Repeats()


@dataclass(frozen=True)
class Measured:
    """The hash of a probe's output, and how often it was computed."""

    answer: str
    times: int


def measure(probe: Probe) -> str:
    """Hash of the probe's output, `UNSTABLE` when a second call gives other bits, `none` where no
    kernel exists."""
    return measure_often(probe, TWICE).answer


def measure_often(probe: Probe, repeats: Repeats) -> Measured:
    """The same of a probe that is computed more than twice, up to the first other bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _repeat(probe, repeats)
        except NotImplementedError:
            return Measured(NO_KERNEL, 1)


def _repeat(probe: Probe, repeats: Repeats) -> Measured:
    begun, first = time.monotonic(), _hash_of(probe())
    for number in range(2, repeats.times + 1):
        if number > 2 and time.monotonic() - begun > repeats.limit_s:
            return Measured(first, number - 1)
        if _hash_of(probe()) != first:
            return Measured(UNSTABLE, number)
    return Measured(first, repeats.times)


def _hash_of(outputs: Sequence[Tensor]) -> str:
    return digest(b"".join(_bytes_of(tensor) for tensor in outputs))


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _dyadic(count: int) -> np.ndarray:
    """The first `count` outputs of splitmix64 (Steele, Lea and Flood 2014), cut to 24 bits;
    float32, exact."""
    words = mix(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(STEP))
    centred = (words >> np.uint64(40)).astype(np.int32) - (1 << 23)
    return centred.astype(np.float32) * np.float32(2.0**-22)
