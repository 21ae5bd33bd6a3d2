"""The order of places is the model's, and their words say where they are."""

from __future__ import annotations

import random

from dougong.parallel.trace.trace_key import ALL_LANES, BACKWARD, FORWARD, SUMS, WHOLE_STEP, TraceKey, first_difference

SITES = ("model.layers.0.mlp.experts", "model.layers.1.mlp.experts")
IN_ORDER = [
    TraceKey(0, 0, FORWARD, 0, "hidden"),
    TraceKey(1, 0, FORWARD, 0, "hidden"),
    TraceKey(0, 0, FORWARD, 0, "choice"),
    TraceKey(0, 0, FORWARD, 0, "weights"),
    TraceKey(0, 0, FORWARD, 0, "outputs", 2),
    TraceKey(0, 0, FORWARD, 0, "outputs", 10),
    TraceKey(0, 0, FORWARD, 1, "hidden"),
    TraceKey(0, 0, FORWARD, 2, "loss"),
    TraceKey(0, 0, BACKWARD, 1, "doutput"),
    TraceKey(0, 0, BACKWARD, 1, "drows", 3),
    TraceKey(0, 0, BACKWARD, 0, "doutput"),
    TraceKey(0, 1, FORWARD, 0, "hidden"),
    TraceKey(0, WHOLE_STEP, SUMS, WHOLE_STEP, "leaf", "lm_head.weight"),
    TraceKey(0, WHOLE_STEP, SUMS, WHOLE_STEP, "leaf", "model.norm.weight"),
]


def test_the_order_is_the_model_s() -> None:
    shuffled = random.Random(1).sample(IN_ORDER, len(IN_ORDER))
    assert sorted(shuffled, key=lambda place: place.order) == IN_ORDER


def test_the_first_difference() -> None:
    a = {place: number for number, place in enumerate(IN_ORDER)}
    assert first_difference(a, dict(a)) is None
    assert first_difference(a, a | {IN_ORDER[9]: -1, IN_ORDER[5]: -1}) == IN_ORDER[5]
    assert first_difference(a, {p: n for p, n in a.items() if p != IN_ORDER[3]}) == IN_ORDER[3]
    assert first_difference(a | {IN_ORDER[12]: -1}, a) == IN_ORDER[12]


def test_words_of_a_closer_look() -> None:
    """One micro-batch's own gradient, and that of an expert, which is the sum over all lanes."""
    leaf = TraceKey(1, 3, SUMS, WHOLE_STEP, "leaf", "lm_head.weight")
    expert = TraceKey(ALL_LANES, 3, SUMS, 0, "leaf", f"{SITES[0]}.down_proj[5]")
    assert leaf.describe(SITES) == "lane 1, micro-batch 3: the gradient of lm_head.weight"
    assert expert.describe(SITES) == f"all lanes, micro-batch 3: the gradient of {SITES[0]}.down_proj[5]"


def test_words() -> None:
    first, second = SITES
    assert [IN_ORDER[i].describe(SITES) for i in (0, 5, 6, 7, 8, 10, 12)] == [
        f"lane 0, micro-batch 0, forward, segment 0 (from the start up to {first}): {HANDED}",
        f"lane 0, micro-batch 0, forward, {first}, expert 10: the outputs",
        f"lane 0, micro-batch 0, forward, segment 1 (after {first} up to {second}): {HANDED}",
        f"lane 0, micro-batch 0, forward, segment 2 (after {second} to the loss): the loss",
        f"lane 0, micro-batch 0, backward, segment 2 (after {second} to the loss): {HANDED_BACK}",
        f"lane 0, micro-batch 0, backward, segment 1 (after {first} up to {second}): {HANDED_BACK}",
        "lane 0: the gradient of lm_head.weight, added over its micro-batches",
    ]


HANDED = "the hidden states that it hands to the experts"
HANDED_BACK = "the gradient that it hands back to the experts"
