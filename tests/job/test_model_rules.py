"""What a list of families says about a job's model."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from dougong.job.families import Families, Family
from dougong.job.model_rules import model_rules
from dougong.job.parts.data import Data
from dougong.job.rule import Breach
from dougong.job.schema import Job, Model

OWL = Family(
    keys={"hidden_size": ("int",), "eps": ("float",), "scale": ("float", "int"), "window": ("int", "null"),
          "act": ("str",), "tie": ("bool",), "layers": ("list", "null"), "rope": (), "num_experts": ("int",),
          "num_local_experts": ("int",)},
    words=frozenset({"head_dim"}), vocab_size=500, max_positions=64,
    names={"num_local_experts": "num_experts"},
)  # fmt: skip
FAMILIES = Families(
    version=importlib.metadata.version("transformers"),
    with_experts={"owl_moe": OWL},
    refused={"crow_moe": "crow_moe keeps its experts as separate modules"},
    dense=frozenset({"wren", "owl_5_text"}),
    others=frozenset({"fish"}),
    packed=frozenset({"owl_moe"}),
)


def breaches(families: Families = FAMILIES, length: int = 64, **model: Any) -> list[Breach]:
    job = Job.model_validate(
        {"job": "t", "model": model, "data": {"text": "stdlib", "sequence_length": length}, "batch": {"lanes": 2},
         "steps": 1, "islands": [{"name": "e", "accelerator": "cpu", "workers": 1}]}
    )  # fmt: skip
    found: list[Breach] = []
    for rule in model_rules(families):
        found += rule.check(job)
    return found


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("owl_moe", None),
        ("owlmoe", "knows no 'owlmoe'; did you mean 'owl_moe'"),
        ("zzz", "knows no 'zzz'; give a mixture-of-experts family, such as "),
        ("owl_mo", "knows no 'owl_mo'; did you mean 'owl_moe'"),
        ("wren", "wren is a dense family, which has no experts; give a mixture-of-experts family, such as "),
        ("owl_5_text", "such as qwen3_moe, deepseek_v3, mixtral"),
        ("fish", "transformers has no model of fish that learns from texts"),
        ("crow_moe", "crow_moe keeps its experts as separate modules"),
    ],
)
def test_a_family_is_one_with_experts_that_can_be_cut(family: str, expected: str | None) -> None:
    found = breaches(family=family)
    assert [breach.path for breach in found] == ([] if expected is None else [("model", "family")])
    assert all(expected is not None and expected in breach.text for breach in found)


def test_a_folder_that_needs_its_own_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    (breach,) = breaches(path=str(tmp_path))
    assert breach.path == ("model", "path")
    assert breach.text.startswith("'own' needs its own code (auto_map in its config.json); dougong runs none; give ")


KERNEL = "owner/kernel"


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("trust_remote_code", True, "trust_remote_code: true"),
        ("trust_remote_code", False, "trust_remote_code: false"),
        ("auto_map", {"AutoConfig": "own.Config"}, "auto_map: {AutoConfig: own.Config}"),
        ("use_kernels", True, "use_kernels: true"),
        ("_attn_implementation", KERNEL, "_attn_implementation: owner/kernel"),
        ("experts_implementation", KERNEL, "experts_implementation: owner/kernel"),
        ("_attn_implementation_internal", "paged|owner/kernel@v1:flash", "_attn_implementation_internal: paged|owner"),
        ("attn_implementation", {"": "eager", "text_config": KERNEL}, "attn_implementation: {'': 'eager', 'text_"),
        ("text_config", {"_attn_implementation": KERNEL}, "_attn_implementation: owner/kernel"),
        ("layers", [{"deep": {"attn_implementation": KERNEL}}], "attn_implementation: owner/kernel"),
    ],
)
def test_code_of_a_hub_is_refused_in_a_job_and_in_a_folder(key: str, value: Any, told: str, tmp_path: Path) -> None:
    (breach,) = breaches(family="owl_moe", config={key: value})
    assert breach.path == ("model", "config", key) and breach.is_key
    assert breach.text.startswith(f"asks for code from elsewhere ({told}")
    assert breach.text.endswith("; dougong runs none: leave it out")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "owl_moe", key: value}))
    found = breaches(path=str(tmp_path))
    if not value or key == "auto_map":  # a family that transformers knows needs no code of a folder
        assert found == []
        return
    assert [one.path for one in found] == [("model", "path")]
    assert found[0].text.startswith("its config.json asks for code from elsewhere (")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", 64, None),
        ("head_dim", "anything", None),
        ("rope", {"theta": 1}, None),
        ("scale", 1, None),
        ("window", None, None),
        ("hiden_size", 64, "owl_moe does not know it; did you mean 'hidden_size'?"),
        ("zzz", 64, "owl_moe does not know it; its keys are in transformers' owl_moe"),
        ("hidden_size", 64.0, "must be a whole number (got 64.0); write 64"),
        ("hidden_size", 64.5, "must be a whole number (got 64.5)"),
        ("hidden_size", True, "must be a whole number (got true)"),
        ("hidden_size", None, "must be a whole number (got null)"),
        ("eps", 1, "must be a number with a decimal point (got 1); write 1.0"),
        ("act", 3, "must be text (got 3)"),
        ("tie", "yes", "must be true or false (got 'yes')"),
        ("layers", 3, "must be a list or null (got 3)"),
        ("window", [3], "must be a whole number or null (got [3])"),
    ],
)
def test_a_key_is_known_and_takes_its_value(key: str, value: Any, expected: str | None) -> None:
    found = breaches(family="owl_moe", config={key: value})
    assert [breach.text for breach in found] == ([] if expected is None else [expected])
    assert [breach.path for breach in found] == [("model", "config", key)] * len(found)
    assert [breach.is_key for breach in found] == ["does not know" in breach.text for breach in found]


def test_one_key_under_two_names_is_refused() -> None:
    (breach,) = [one for one in breaches(family="owl_moe", config={"num_experts": 4, "num_local_experts": 8})
                 if "one key" in one.text]  # fmt: skip
    assert breach.path == ("model", "config", "num_local_experts")
    assert breach.text == "num_experts and num_local_experts are one key of owl_moe, given as 4 and 8; leave one out"


@pytest.mark.parametrize(
    ("config", "key", "text"),
    [
        ({"hidden_size": 0}, "hidden_size", "hidden_size must be at least 1 (got 0)"),
        ({"num_hidden_layers": -1}, "num_hidden_layers", "num_hidden_layers must be at least 1 (got -1)"),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_key_value_heads",
            "num_attention_heads (4) must be a multiple of num_key_value_heads (3)",
        ),
    ],
)
def test_sizes_of_which_nothing_can_be_built(config: dict[str, Any], key: str, text: str) -> None:
    other = dataclasses.replace(FAMILIES, version="1.2.3")
    assert [(one.path, one.text) for one in breaches(other, family="owl_moe", config=config)] == [
        (("model", "config", key), text)
    ]
    assert not breaches(other, family="owl_moe", config={"num_attention_heads": 4, "num_key_value_heads": 2})


def test_positions_are_the_familys_where_the_job_says_nothing() -> None:
    (breach,) = breaches(family="owl_moe", length=65)
    assert breach.path == ("data", "sequence_length") and "positions for 64" in breach.text


def test_a_list_of_another_version_says_nothing() -> None:
    other = dataclasses.replace(FAMILIES, version="1.2.3")
    assert breaches(other, family="owlmoe", config={"zzz": 1}) == []


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        ({"chat": "a.jsonl", "tokenizer": "t", "packing": True}, "set packing: false"),
        ({"text": "stdlib", "document_masks": True}, "set document_masks: false"),
    ],
)
def test_documents_lie_together_where_the_family_keeps_them_apart(data: dict[str, Any], remedy: str) -> None:
    def told(families: Families) -> list[str]:
        job = Job.model_construct(None, model=Model(family="owl_moe"), data=Data.model_validate(data))
        rules = [rule for rule in model_rules(families) if "packing" in str(rule.check)]
        return [breach.text for rule in rules for breach in rule.check(job)]

    assert told(FAMILIES) == []
    (line,) = told(dataclasses.replace(FAMILIES, packed=frozenset()))
    assert line.startswith("owl_moe does not keep the documents of a sequence apart") and remedy in line
