"""What counts as a key that sources read from a configuration."""

from __future__ import annotations

from dougong.models.configs.reads import keys_read_by

SOURCE = """
plan = {"layers.*": "colwise", "default": 1}
class A:
    def __init__(self, config, **kwargs):
        self.layers = config.depth + self.config.width
        self.head = getattr(config, "head_dim", None) or getattr(self, "own", 0)
        self.gone = kwargs.pop("older", 1)
        config.get("dropped"); config._private
"""


def test_only_what_is_read_from_a_configuration_is_a_key() -> None:
    assert keys_read_by(SOURCE, of_config=False) == {"depth", "width", "head_dim"}
    assert keys_read_by(SOURCE, of_config=True) == {"depth", "width", "head_dim", "own", "older"}
