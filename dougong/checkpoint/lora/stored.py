"""A checkpoint that holds adapters, and how their tensors and those that they adapt are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from dougong.checkpoint.directories import MODEL
from dougong.checkpoint.export import small_files
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.manifest import MODEL_GROUP, Manifest
from dougong.checkpoint.reader import CheckpointReader
from dougong.job.schema import Model
from dougong.models.adapters import is_transposed
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.peft_form import CONFIG_FILE, scaling_in
from dougong.models.sites import Site, find_sites
from dougong.ops.adapter_names import adapter_of, is_adapter
from dougong.ops.experts.adapted import Adapter


@dataclass(frozen=True)
class StoredAdapters:
    """`names`: of its model with the adapters, `sites` without; `values`: what its
    adapter_config.json says."""

    directory: Path
    manifest: Manifest
    names: Names
    sites: tuple[Site, ...]
    values: Mapping[str, Any]
    reader: CheckpointReader

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The adapters' live names, those of experts without their numbers."""
        tensors = self.manifest.tensors
        return frozenset(filter(is_adapter, (*tensors.dense, *tensors.experts)))

    @cached_property
    def adapted(self) -> list[str]:
        """The logical names of what has an adapter."""
        every = {name for name, _ in self.names.tensors()}
        return [name for name in sorted(every) if adapter_of(name, "A") in every]

    def read(self, name: str) -> Tensor:
        """A logical tensor, float32."""
        return self.reader.read(MODEL_GROUP, name)

    def merged(self, name: str) -> Tensor:
        """An adapted tensor with its adapter in it, as training computes it in float32."""
        a, b = (self.read(adapter_of(name, half)) for half in ("A", "B"))
        is_expert = name.endswith("]")
        adapter = Adapter(self._scaling, is_expert and is_transposed(self.sites[0]))
        return adapter.merged(self.read(name), a, b)

    @cached_property
    def _scaling(self) -> float:
        return scaling_in(self.values)


@contextmanager
def stored_adapters(directory: Path) -> Iterator[StoredAdapters]:
    """Of a checkpoint that has some. Raises CheckpointError where it is damaged."""
    manifest = Manifest.load(directory)
    shapes = {**manifest.tensors.dense, **manifest.tensors.experts}
    adapters = {name: shape for name, shape in shapes.items() if is_adapter(name)}
    network = build_on_meta(load_config(Model(path=str(directory / MODEL)), None))
    sites = find_sites(network)
    base = Names.of(network, [site.name for site in sites], sites[0].num_experts)
    names = base.with_adapters(adapters)
    values = json.loads(small_files(directory, manifest)[CONFIG_FILE])
    with CheckpointReader(directory, names) as reader:
        yield StoredAdapters(directory, manifest, names, tuple(sites), values, reader)
