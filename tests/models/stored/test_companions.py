"""What lies beside a model's weights goes into every checkpoint; code, weights and others' state never do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.checkpoint.commit import Additions, commit
from dougong.checkpoint.export import export, small_files
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.part import CheckpointPart
from dougong.errors import CheckpointError, ModelError
from dougong.job.rule import CODE_KEYS
from dougong.models.stored.companions import (
    beside_words,
    is_companion,
    left_out,
    of_folder,
    of_job,
    of_tokenizer,
    unused,
    without_their_code,
)
from dougong.models.stored.folder import read_config
from tests.checkpoint.saving import names_of, share, state_of, tiny_model, write_parts

OWN_GENERATION = {"eos_token_id": [2, 5], "temperature": 0.6, "top_p": 0.95, "do_sample": True}
TRAVEL = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt", "added_tokens.json", "tokenizer.model", "chat_template.jinja", "preprocessor_config.json",
    "README.md", "LICENSE", "NOTICE.txt", "additional_chat_templates/rag.jinja",
)  # fmt: skip
STAY = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "trainer_state.json",
    "pytorch_model.bin.index.json", "modeling_own.py", "tokenization_own.py", "requirements.txt", "optimizer.pt",
    "scheduler.json", "training_args.bin", "eval_results.json", ".cache.json", "corpus.txt", "events.out.tfevents.1",
)  # fmt: skip


def base_folder(folder: Path) -> Path:
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name in (*TRAVEL, *STAY):
        (folder / name).write_text("{}" if name.endswith(".json") else f"of {name}")
    (folder / "generation_config.json").write_text(json.dumps(OWN_GENERATION))
    own_code = {"AutoTokenizer": ["tokenization_own.Own", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<斗>", "auto_map": own_code}))
    return folder


def test_small_files_travel_and_nothing_else(tmp_path: Path) -> None:
    files = of_folder(base_folder(tmp_path / "base"))
    assert set(files) == set(TRAVEL)
    assert json.loads(files["generation_config.json"]) == OWN_GENERATION
    assert files["chat_template.jinja"] == b"of chat_template.jinja"


def test_no_entry_says_where_code_lies(tmp_path: Path) -> None:
    files = of_folder(base_folder(tmp_path / "base"))
    assert json.loads(files["tokenizer_config.json"]) == {"eos_token": "<斗>"}
    assert not any(b"auto_map" in data for data in files.values())


def test_no_setting_names_code_at_any_depth_and_what_was_left_out_is_known(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    code = {
        "custom_generate": "owner/name",
        "trust_remote_code": True,
        "text": [{"_attn_implementation": "owner/kernel"}],
    }
    (folder / "generation_config.json").write_text(json.dumps(OWN_GENERATION | code))
    assert json.loads(of_folder(folder)["generation_config.json"]) == OWN_GENERATION | {"text": [{}]}
    assert without_their_code(folder) == {
        "generation_config.json": ("custom_generate", "trust_remote_code", "_attn_implementation"),
        "tokenizer_config.json": ("auto_map",),
    }
    words = list(beside_words(folder))
    left = "custom_generate, trust_remote_code, _attn_implementation: no code is named there"
    assert f"generation_config.json goes into checkpoints without {left}" in words


@pytest.mark.parametrize("key", CODE_KEYS)
def test_every_key_of_the_one_list_stays_behind(tmp_path: Path, key: str) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "generation_config.json").write_text(json.dumps(OWN_GENERATION | {key: {"a": 1}}))
    assert json.loads(of_folder(folder)["generation_config.json"]) == OWN_GENERATION


def test_words_of_a_vocabulary_are_no_settings(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    words = json.dumps({"auto_map": 0, "trust_remote_code": 1})
    for name in ("vocab.json", "added_tokens.json", "tokenizer.json"):
        (folder / name).write_text(words)
    files = of_folder(folder)
    assert all(files[name].decode() == words for name in ("vocab.json", "added_tokens.json", "tokenizer.json"))
    (tmp_path / "own.json").write_text(words)
    assert of_tokenizer(tmp_path / "own.json")["tokenizer.json"].decode() == words


def test_what_lies_beside_the_model_and_goes_nowhere_is_known(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "figures").mkdir()
    assert set(unused(folder)) == {*STAY, "figures/"} - {
        "config.json", "model.safetensors", "model.safetensors.index.json", ".cache.json"
    }  # fmt: skip


WHAT_BECOMES = (
    "is not used: neither merged into the weights, nor trained, nor written into checkpoints; where it is meant"
)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("adapter_config.json", "adapter_model.safetensors"), "a LORA adapter of own/base"),
        (("adapter_config.json",), "a LORA adapter of own/base, whose weights are not beside it,"),
        (("adapter_model.bin",), "an adapter"),
    ],
)
def test_an_adapter_is_told_once(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    folder = base_folder(tmp_path / "base")
    for name in names:
        (folder / name).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "own/base"}))
    words = [text for text in beside_words(folder) if "adapter" in text]
    assert [text.startswith(f"{', '.join(names)}: {said} {WHAT_BECOMES}") for text in words] == [True], words
    assert not any(name.startswith("adapter") for name in of_folder(folder))


def test_a_folder_with_an_adapter_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no config.json; its adapter_config.json says .*merge_and_unload"):
        read_config(tmp_path)


def test_a_file_that_is_not_there_in_truth_is_refused_by_name(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "generation_config.json").write_text('{"eos')
    with pytest.raises(ModelError, match="generation_config.json: is not JSON"):
        of_folder(folder)
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"tokenizer.model: is a git-lfs pointer.*git lfs pull"):
        of_folder(folder)


def test_what_is_too_large_is_left_out_by_name(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    assert left_out(folder) == []
    with (folder / "huge.json").open("wb") as file:
        file.truncate((64 << 20) + 1)  # takes no room on the disk
    assert left_out(folder) == ["huge.json"] and "huge.json" not in of_folder(folder)


def parts_of(root: Path, step: int) -> list[CheckpointPart]:
    model = tiny_model("qwen3_moe", num_hidden_layers=1)
    names = names_of(model)
    return write_parts(root, names, [share(state_of(model, names), 0, 1)], step)


def of_checkpoint(directory: Path) -> dict[str, bytes]:
    held = small_files(directory, Manifest.load(directory))
    return {name: data for name, data in held.items() if is_companion(name)}


def tokenizer_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"trained": "with"}')
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    (folder / "notes.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["", "tokenizer.json", "mine.json"])
def test_the_tokenizer_that_was_trained_with_takes_the_folders_place(name: str, tmp_path: Path) -> None:
    own = tokenizer_folder(tmp_path / "own")
    if name:
        (own / "tokenizer.json").rename(own / name)
    files = of_job(base_folder(tmp_path / "base"), own / name, {})
    assert files["tokenizer.json"] == b'{"trained": "with"}'  # the name by which transformers finds it
    assert json.loads(files["tokenizer_config.json"]) == {"eos_token": "<end>"}
    assert {"generation_config.json", "LICENSE"} < set(files)
    assert not {"vocab.json", "merges.txt", "chat_template.jinja", "notes.json", "mine.json"} & set(files)
    assert set(of_tokenizer(own / name)) == {"tokenizer.json", "tokenizer_config.json"}


def test_an_image_processor_comes_from_the_tokenizers_folder_where_it_has_one(tmp_path: Path) -> None:
    base, own = base_folder(tmp_path / "base"), tokenizer_folder(tmp_path / "own")
    assert of_job(base, own, {})["preprocessor_config.json"] == b"{}"
    (own / "preprocessor_config.json").write_text('{"patch_size": 16}')
    assert of_job(base, own, {})["preprocessor_config.json"] == b'{"patch_size": 16}'
    assert "preprocessor_config.json" in of_job(None, own, {})


def test_the_model_folder_as_its_own_tokenizer_is_one_folder(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    assert of_job(base, base, {}) == of_job(base, None, {}) == of_folder(base)
    assert of_job(None, None, {}) == {}


def test_special_tokens_that_the_job_sets_are_those_of_generation_too(tmp_path: Path) -> None:
    files = of_job(base_folder(tmp_path / "base"), None, {"eos_token_id": 7, "num_hidden_layers": 1})
    assert json.loads(files["generation_config.json"]) == OWN_GENERATION | {"eos_token_id": 7}


def test_checkpoints_and_exports_hold_them_and_a_later_generation_needs_no_base(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    given = of_folder(base_folder(tmp_path / "base"))
    first = commit(root, 1, 1, parts_of(root, 1), Additions(companions=given))
    kept = of_checkpoint(first)
    assert kept == given
    second = commit(root, 2, 1, parts_of(root, 2), Additions(companions=kept))
    assert of_checkpoint(second) == given
    export(second, tmp_path / "out")
    held = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert held == {*TRAVEL, "config.json", "model.safetensors"}
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == OWN_GENERATION


def test_a_damaged_one_is_never_handed_on(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    directory = commit(root, 1, 1, parts_of(root, 1), Additions(companions={"tokenizer.json": b"{}"}))
    (directory / "model/tokenizer.json").write_text("[]")
    with pytest.raises(CheckpointError, match="model/tokenizer.json: damaged"):
        of_checkpoint(directory)
