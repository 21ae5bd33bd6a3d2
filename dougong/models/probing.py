"""Parts of a model on made-up values: to see what they do without the memory that they need."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dougong.models.towers import is_of_training
from dougong.ops import counter_rng


def without_memory(block: nn.Module) -> nn.Module:
    """A shallow copy whose tables of modules and tensors are its own; it runs its class's forward,
    not a cut one."""
    copied = copy.copy(block)
    copied.__dict__ = dict(block.__dict__)
    for table in ("_modules", "_parameters", "_buffers"):
        copied.__dict__[table] = dict(getattr(block, table))
    copied.__dict__.pop("forward", None)
    return copied


def fill(part: nn.Module) -> None:
    """Replace every tensor of a part and of what is in it by made-up values."""
    for module in part.modules():
        for tensors in (module._parameters, module._buffers):
            made = {
                name: _made_up(tensor) for name, tensor in tensors.items() if tensor is not None
            }
            tensors.update(made)  # type: ignore[arg-type]


def _made_up(tensor: Tensor) -> Tensor:
    """Matrices are random, trained vectors one (norms, scales), all else zero."""
    trained = is_of_training(tensor)
    if trained and tensor.dim() > 1:
        values = random_matrix(tuple(tensor.shape))
    else:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        values = torch.full(tensor.shape, int(trained), dtype=dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=trained)
    return values


def random_matrix(shape: tuple[int, ...]) -> Tensor:
    """Normal values, scaled so that outputs are as large as inputs."""
    values: Tensor = torch.from_numpy(counter_rng.normal(shape, 0, "probe"))
    scale: float = shape[-1] ** -0.5
    return values.float() * scale
