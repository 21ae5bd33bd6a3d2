"""One key at a time, as transformers converts whole state dicts."""

from __future__ import annotations

import pytest
import torch
from dougong.models.library.conversion import Converters
from tests.checkpoint.saving import tiny_model
from tests.families import FAMILIES, FURTHER
from transformers import conversion_mapping, core_model_loading
from transformers.core_model_loading import revert_weight_conversion

PARTS = ("WeightRenaming", "WeightConverter", "PrefixChange", "dot_natural_key", "rename_source_key")


def test_the_undocumented_parts_are_there() -> None:
    assert [name for name in PARTS if not hasattr(core_model_loading, name)] == []
    assert hasattr(conversion_mapping, "get_model_conversion_mapping")
    assert hasattr(core_model_loading.WeightConverter, "add_tensor")
    assert hasattr(core_model_loading.WeightConverter, "convert")
    assert hasattr(core_model_loading.WeightRenaming, "reverse_transform")


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER])
def test_key_by_key_gives_what_the_whole_gives(family: str) -> None:
    model = tiny_model(family)
    converters = Converters(model)
    state = dict(model.state_dict())
    found: dict[str, torch.Tensor] = {}
    for name, tensor in converters.in_order(state):
        joined = converters.joined(name, state)
        if joined is not None:
            begin, end = joined.range_of(name)
            whole = found.setdefault(joined.disk, torch.empty(joined.shape))
            whole.view(-1)[begin:end] = joined.to_disk(name, tensor)
            assert torch.equal(joined.from_disk(name, whole.view(-1)[begin:end]), tensor)
            continue
        written = converters.revert(name, tensor)
        found |= written
        assert {converters.reading(disk).live for disk in written} == {name}
    expected = revert_weight_conversion(model, state)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
