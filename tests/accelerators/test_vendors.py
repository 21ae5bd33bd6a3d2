"""Rows of data: each is whole, and says only what its vendor's documents say."""

import re

import pytest
from dougong.accelerators.base import Accelerator
from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.registry import BUILT_IN
from dougong.errors import DeviceError

ROWS = [kind for kind in BUILT_IN if issubclass(kind, GenericAccelerator)]


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_is_whole(kind: type[GenericAccelerator]) -> None:
    assert bool(kind.plugin) != bool(kind.build), "torch knows it by a plug-in or by a build"
    assert bool(kind.plugin) == bool(kind.package)
    assert kind.tool and kind.title and kind.install
    assert kind.visible_devices_variable and kind.resource
    assert re.fullmatch(r"[a-z]+", kind.name)
    for rates in kind.peak_rates:
        assert rates.source and set(rates.per_s) <= {"float32", "float16", "bfloat16"}


def test_names_and_words_mean_one_kind_each() -> None:
    words = [word for kind in BUILT_IN for word in (kind.name, *kind.also_called)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("kind", [kind for kind in BUILT_IN if kind.standing == "from documents"])
def test_a_row_from_documents_says_what_to_install_where_there_is_no_device(kind: type[Accelerator]) -> None:
    assert kind().device_count() == 0
    with pytest.raises(DeviceError, match=f"^accelerator {kind.name}: .*(is not built for|does not load).*install"):
        kind().open(0)
    assert kind().missing()
