"""Facts about devices, as data."""

import pytest
from dougong.accelerators.facts import Default


@pytest.mark.parametrize(
    ("environment", "applies"),
    [({}, True), ({"OTHER": "1"}, True), ({"NEW": ""}, False), ({"OLD": "small"}, False)],
)
def test_a_default_yields_to_what_is_set_under_any_of_its_names(environment: dict[str, str], applies: bool) -> None:
    assert Default("NEW", "large", ("OLD",)).applies(environment) is applies
