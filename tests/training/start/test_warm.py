"""What a fork server does beforehand, seen in a process that has this family's code not loaded."""

from __future__ import annotations

import os
import sys
from typing import Any

from dougong.checkpoint.huggingface import Names
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.sites import find_sites
from dougong.training.start.warm import warm
from tests.families import config_values
from tests.processes import CONTEXT

FAMILY = "olmoe"


def test_a_worker_finds_its_models_code_loaded() -> None:
    results: Any = CONTEXT.Queue()
    process = CONTEXT.Process(target=build_after_warming, args=(results,), daemon=True)
    process.start()
    was_loaded, is_loaded, imported, num_threads = results.get(timeout=60)
    process.join(10)
    assert (was_loaded, is_loaded) == (False, True)
    assert imported == []
    assert num_threads == 1


def build_after_warming(results: Any) -> None:
    code = f"transformers.models.{FAMILY}.modeling_{FAMILY}"
    was_loaded, before = code in sys.modules, num_threads()
    warm(("no_such_family", FAMILY))
    threads, loaded = 1 + num_threads() - before, set(sys.modules)
    model = build_on_meta(load_config(Model(family=FAMILY, config=config_values(FAMILY)), 256))
    sites = find_sites(model)
    Names.of(model, [site.name for site in sites], sites[0].num_experts)
    imported = [name for name in set(sys.modules) - loaded if name.startswith(("transformers", "torch"))]
    results.put((was_loaded, code in loaded, imported, threads))


def num_threads() -> int:
    return len(os.listdir("/proc/self/task"))
