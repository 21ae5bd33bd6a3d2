"""Where in a step a message belongs, in words."""

from __future__ import annotations

from dougong.parallel.exchange.expected import place_in_words


def test_a_place_has_the_models_name_where_it_is_known() -> None:
    assert place_in_words((1, 3), ("a.experts", "b.experts")) == "site 1 (b.experts), micro-batch 3"
    assert place_in_words((1, 3), ()) == "site 1, micro-batch 3"
