"""Which models see the images of their chats; others are refused by name with the first row that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.data.chats.image_form import SEE, ImageForm, open_image_form
from dougong.data.chats.image_processor import PROCESSOR_FILES
from dougong.data.chats.parts import ImageName
from dougong.data.chats.template import open_chat_tokenizer
from dougong.data.windows import open_data
from dougong.errors import DataError
from tests.chats import write_chats
from tests.families import config_values, tiny_config
from tests.jobs import make_job
from tests.pictures import PATCH, PROCESSORS, image_token, look, seeing_folder, seeing_model, seeing_values

VOCAB = 330


def form_of(folder: Path, model: dict[str, Any], **data: Any) -> ImageForm:
    job = make_job(model=model, data={"chat": "a.jsonl", "tokenizer": str(folder), "sequence_length": 64, **data})
    first = ImageName(folder / "a.jsonl", "line 7: messages[0].content[1]", "x.png")
    return open_image_form(job, open_chat_tokenizer(str(folder), "text"), first)


def test_each_that_sees_has_its_processor_in_these_tests() -> None:
    assert set(SEE) == set(PROCESSORS)


@pytest.mark.parametrize("family", SEE)
def test_the_token_is_the_models_own(family: str, tmp_path: Path) -> None:
    folder = seeing_folder(tmp_path, family)
    form = form_of(folder, seeing_model(family, tmp_path / "model", folder, VOCAB))
    assert form.token == image_token(folder) and form.words == f"<|image_pad|> ({form.token})"


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("qwen3_moe", "qwen3_moe is a model of text, as it is built here, so nothing can be learnt from an image"),
        ("step3p7", "step3p7 is trained on texts alone here, so nothing can be learnt from an image"),
        ("qwen3_5_moe", "qwen3_5_moe"),
    ],
)
def test_others_are_refused_by_name_with_the_row(family: str, why: str, tmp_path: Path) -> None:
    folder = seeing_folder(tmp_path, "qwen3_vl_moe")
    changes = {"intermediate_size": None} if family == "qwen3_5_moe" else {}
    with pytest.raises(DataError) as caught:
        form_of(folder, {"family": family, "config": config_values(family, **changes)})
    told = str(caught.value)
    assert told.startswith(f"{folder}/a.jsonl: line 7: messages[0].content[1]: {folder}/x.png: {why}")
    assert told.endswith(": qwen3_vl_moe, glm4v_moe, or a folder of qwen3_5_moe with its tower (model.path)")


def test_a_row_with_an_image_is_refused_before_its_image_is_looked_at(tmp_path: Path) -> None:
    folder = seeing_folder(tmp_path / "tokenizer", "qwen3_vl_moe")
    chats = write_chats(tmp_path / "a.jsonl", [look("gone.png")])
    job = make_job(data={"chat": str(chats), "tokenizer": str(folder)}, cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"a.jsonl: line 1: .*gone.png: qwen3_moe is a model of text"):
        open_data(job, VOCAB)


def test_packing_is_refused_with_the_row(tmp_path: Path) -> None:
    folder = seeing_folder(tmp_path, "glm4v_moe")
    model = {"family": "glm4v_moe", "config": seeing_values("glm4v_moe", folder, VOCAB)}
    with pytest.raises(DataError, match=r"line 7: .*chats with images are not packed: .* set data.packing: false"):
        form_of(folder, model, packing=True)


def test_a_token_that_the_tokenizer_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = seeing_folder(tmp_path, "qwen3_vl_moe")
    values = seeing_values("qwen3_vl_moe", folder, VOCAB)
    del values["image_token_id"]
    with pytest.raises(DataError, match=r"image_token_id is 151655, and the tokenizer .* has \d+ ids; give"):
        form_of(folder, {"family": "qwen3_vl_moe", "config": values})
    values["image_token_id"] = open_chat_tokenizer(str(folder), "text").padding
    with pytest.raises(DataError, match=r"fills sequences up with <pad> \(\d+\), which is the model's image_token_id"):
        form_of(folder, {"family": "qwen3_vl_moe", "config": values})


def test_a_tokenizer_without_a_processor_takes_that_of_the_models_folder(tmp_path: Path) -> None:
    tokenizer = seeing_folder(tmp_path / "tokenizer", "qwen3_vl_moe")
    base = tmp_path / "base"
    tiny_config("qwen3_vl_moe", **seeing_values("qwen3_vl_moe", tokenizer, VOCAB)).save_pretrained(base)
    (tokenizer / PROCESSOR_FILES[0]).rename(tmp_path / PROCESSOR_FILES[0])
    with pytest.raises(DataError, match=f"neither {tokenizer} nor {base} has"):
        form_of(tokenizer, {"path": str(base)})
    (tokenizer / "config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(DataError, match=f"data.chat: {tokenizer} does not have"):
        form_of(tokenizer, {"path": f"{tokenizer}/../tokenizer"})
    (tmp_path / PROCESSOR_FILES[0]).rename(base / PROCESSOR_FILES[0])
    form = form_of(tokenizer, {"path": str(base)})
    assert form.processor.folder == base and form.processor.model.patch_size == PATCH
