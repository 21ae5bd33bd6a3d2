"""What an optimizer declares of itself."""

from __future__ import annotations

from dougong.job.optimizers.declaration import OptimizerConfig, OptimizerDeclaration, StateKind

THRIFTY = OptimizerDeclaration(
    "thrifty", OptimizerConfig, (StateKind("count", like_parameter=False), StateKind("momentum")), "by hand"
)


def test_only_what_has_a_parameter_s_shape_costs_memory() -> None:
    assert THRIFTY.kinds_like_parameters == ("momentum",)
    assert THRIFTY.bytes_per_parameter(THRIFTY.config(name="thrifty")) == 4


def test_tensors_stay_whole_where_nothing_is_declared() -> None:
    assert not THRIFTY.is_elementwise("model.norm.weight", (64,))
