"""Forms of attention: names, what a family has, what it lacks."""

from __future__ import annotations

import pytest
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta, load_config
from dougong.models.library.attention_forms import FORMS, forms_to_try
from tests.families import config_values
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def forms_of(family: str, attention: str | None) -> tuple[str, ...]:
    model = Model(family=family, config=config_values(family), attention=attention)
    return forms_to_try(build_on_meta(load_config(model, None)), attention)


def test_every_form_is_in_transformers_own_registry() -> None:
    known = {*ALL_ATTENTION_FUNCTIONS.valid_keys(), "eager"}
    assert set(FORMS.values()) <= known


@pytest.mark.parametrize(
    ("family", "attention", "forms"),
    [
        ("qwen3_moe", None, ("sdpa",)),
        ("gpt_oss", None, ("eager",)),
        ("qwen3_moe", "eager", ("eager",)),
        ("qwen3_moe", "flex", ("flex",)),
        ("qwen3_moe", "auto", ("flash", "sdpa", "flex", "eager")),
        ("gpt_oss", "auto", ("flash", "flex", "eager")),
    ],
)
def test_a_model_computes_by_the_form_that_the_job_says(
    family: str, attention: str | None, forms: tuple[str, ...]
) -> None:
    assert forms_of(family, attention) == forms


def test_a_form_that_the_family_lacks_is_refused_with_transformers_words() -> None:
    with pytest.raises(ModelError, match=r"gpt_oss: .*scaled_dot_product_attention"):
        forms_of("gpt_oss", "sdpa")


def test_flash_needs_its_package_and_nothing_is_fetched_in_its_place() -> None:
    with pytest.raises(ModelError, match=r"model\.attention: flash: the package flash_attn is not installed"):
        forms_of("qwen3_moe", "flash")
