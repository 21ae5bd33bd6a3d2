"""The model's half of a job file is checked with its place, without torch or transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.data.tokenizer import open_tokenizer
from dougong.errors import DataError, JobError
from dougong.job.families import read_families
from dougong.tools.job_check import folder_notes, load_whole_job, unchecked_model
from tests.data.test_tokenizer import train_tokenizer

FAMILY_IS_LISTED = read_families().is_of_installed


def job_file(folder: Path, model: str, data: str = "{text: stdlib}") -> Path:
    path = folder / "job.yaml"
    path.write_text(
        f"job: tiny\nmodel:\n{model}\ndata: {data}\nbatch: {{lanes: 2}}\nsteps: 3\n"
        "islands: [{name: east, accelerator: cpu, workers: 1}]\n"
    )
    return path


def mistakes(path: Path) -> list[str]:
    try:
        load_whole_job(path)
    except JobError as error:
        return str(error).replace(f"{path.parent}/", "").splitlines()
    return []


MODEL = """  family: {family}
  config:
    num_experts: 8
    num_experts_per_tok: 2
    {extra}"""


@pytest.mark.parametrize(
    ("family", "extra", "expected"),
    [
        ("qwen3_moe", "hidden_size: 64", None),
        ("qwen3_moe", "head_dim: 16", None),  # no key of the class, but its sources read it
        ("qwen3moe", "hidden_size: 64", "job.yaml:3:11: model.family: transformers {version} knows no 'qwen3moe'; "
         "did you mean 'qwen3_moe'"),
        ("llama", "hidden_size: 64", "job.yaml:3:11: model.family: llama is a dense family, which has no "
         "experts; give a mixture-of-experts family, such as "),
        ("vit", "hidden_size: 64", "job.yaml:3:11: model.family: transformers has no model of vit that learns from "
         "texts"),
        ("qwen3_moe", "hiden_size: 64", "job.yaml:7:5: model.config.hiden_size: qwen3_moe does not know it; did you "
         "mean 'hidden_size'?"),
        ("qwen3_moe", "hidden_size: wide", "job.yaml:7:18: model.config.hidden_size: must be a whole number "
         "(got wide)"),
        ("qwen3_moe", "hidden_size: 64.0", "job.yaml:7:18: model.config.hidden_size: must be a whole number "
         "(got 64.0); write 64"),
        ("qwen3_moe", "rms_norm_eps: 1", "job.yaml:7:19: model.config.rms_norm_eps: must be a number with a decimal "
         "point (got 1); write 1.0"),
        ("qwen3_moe", "vocab_size: 100", "job.yaml:7:17: model.config.vocab_size: 100 ids, but the tokenizer bytes has "
         "256 ids; raise it to 256, or leave it out"),
        ("qwen3_moe", "max_position_embeddings: 64", "job.yaml:8:39: data.sequence_length: 128 tokens in a sequence, "
         "but the model has positions for 64"),
    ],
)  # fmt: skip
def test_a_wrong_model_is_told_with_its_place(tmp_path: Path, family: str, extra: str, expected: str | None) -> None:
    path = job_file(tmp_path, MODEL.format(family=family, extra=extra), "{text: stdlib, sequence_length: 128}")
    found = mistakes(path)
    if expected is None:
        assert found == []
    elif FAMILY_IS_LISTED or "vocab" in expected or "sequence" in expected:
        assert len(found) == 1 and found[0].startswith(expected.format(version=read_families().version)), found
    assert bool(unchecked_model()) is not FAMILY_IS_LISTED


def folder_with(tmp_path: Path, config: dict[str, object], weights: bytes | None = None) -> Path:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


GOOD = {"model_type": "qwen3_moe", "vocab_size": 300, "max_position_embeddings": 512}
_HEADER = b'{"a.weight":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]}}'
INTEGERS = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(4)
EMPTY = (2).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    ("config", "weights", "expected"),
    [
        (GOOD, None, "holds neither model.safetensors.index.json nor model.safetensors"),
        (GOOD, b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (GOOD, EMPTY[:9], "model.safetensors"),
        ({**GOOD, "quantization_config": {"quant_method": "awq"}}, EMPTY, "holds quantised weights"),
        ({"vocab_size": 300}, EMPTY, "config.json has no model_type, which names the family"),
        (GOOD, INTEGERS, "a.weight is stored as I8, as quantised weights are, which cannot be trained"),
        ({**GOOD, "model_type": "llama"}, EMPTY, "llama is a dense family, which has no experts"),
    ],
)
def test_a_folder_that_cannot_be_trained_is_told_with_its_place(
    tmp_path: Path, config: dict[str, object], weights: bytes | None, expected: str
) -> None:
    folder = folder_with(tmp_path, config, weights)
    found = mistakes(job_file(tmp_path, f"  path: {folder}", "{text: stdlib, allow_bytes: true}"))
    if FAMILY_IS_LISTED or "llama" not in expected:
        assert [line for line in found if line.startswith("job.yaml:3:9: model.path: ") and expected in line], found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("words, no JSON", "is not a tokenizer.json (Expecting value"),
        ('{"a": 1}', "is not a tokenizer.json: it has no key `model`"),
        (json.dumps({"model": {"vocab": {"a": 0, "b": 700}}}), "has 701 ids, but the model has 300"),
        (json.dumps({"model": {"vocab": {"a": 0, "b": 299}}}), None),
    ],
)
def test_a_tokenizer_is_held_against_the_model(tmp_path: Path, content: str, expected: str | None) -> None:
    folder = folder_with(tmp_path, GOOD, EMPTY)
    (tmp_path / "words.json").write_text(content)
    found = mistakes(job_file(tmp_path, f"  path: {folder}", "{text: stdlib, tokenizer: words.json}"))
    if expected is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith("job.yaml:4:33: data.tokenizer: ") and expected in line


def test_the_folders_own_tokenizer_is_looked_at(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, GOOD, EMPTY)
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    (line,) = mistakes(job_file(tmp_path, f"  path: {folder}"))
    assert line.startswith("job.yaml:4:7: data.tokenizer: ") and "is a git-lfs pointer, not JSON" in line


def test_a_package_under_a_name_of_dougong_s_own_is_refused_at_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "other_cpu-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-cpu\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dougong.accelerators]\ncpu = other_cpu:Cpu\n")
    path = job_file(tmp_path, MODEL.format(family="qwen3_moe", extra=""))
    assert mistakes(path) == []
    monkeypatch.syspath_prepend(str(tmp_path))
    (line,) = mistakes(path)
    assert "islands.0.accelerator: accelerator cpu: offered by other-cpu 1.0 (other_cpu:Cpu), and it is dougong" in line


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (None, 0o600, "own.key: the key cannot be read: No such file"),
        (bytes(32), 0o644, "own.key: others may read or write this key (mode 0644)"),
        (bytes(8), 0o600, "own.key: is no key: a key has 32"),
        (bytes(32), 0o600, "own.key: is no key: it holds one byte again and again"),
        (bytes(range(32)), 0o600, None),
    ],
)
def test_a_key_to_sign_with_is_looked_at_before_anything_starts(
    tmp_path: Path, content: bytes | None, mode: int, expected: str | None
) -> None:
    path = job_file(tmp_path, MODEL.format(family="qwen3_moe", extra=""))
    path.write_text(f"{path.read_text()}checkpoint: {{sign: own.key}}\n")
    if content is not None:
        (tmp_path / "own.key").write_bytes(content)
        (tmp_path / "own.key").chmod(mode)
    found = mistakes(path)
    if expected is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"job.yaml:12:20: checkpoint.sign: {expected}"), line


@pytest.mark.parametrize("code", [{}, {"auto_map": {"AutoConfig": "evil.Config"}}])
def test_code_beside_a_family_that_is_known_is_told_and_not_used(tmp_path: Path, code: dict[str, object]) -> None:
    folder = folder_with(tmp_path, GOOD | {"vocab_size": 256}, EMPTY)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | code))
    notes = list(folder_notes(load_whole_job(job_file(tmp_path, f"  path: {folder}")).job))
    used = f"model.path: {folder}: its own code (auto_map) is not used: it is not run, and does not go into checkpoints"
    assert [note.startswith(used) for note in notes] == [True] * len(code)


def test_who_looks_at_rows_of_chats_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    train_tokenizer(folder)
    (tmp_path / "a.jsonl").write_text("{}")
    model = MODEL.format(family="qwen3_moe", extra="")
    (note,) = folder_notes(load_whole_job(job_file(tmp_path, model, "{chat: a.jsonl, tokenizer: own}")).job)
    assert note.startswith("rows of chats are looked at by `dougong plan`, and shown")


def test_a_tokenizer_that_is_its_own_code_is_no_good_job(tmp_path: Path) -> None:
    """As `plan` has it; where transformers may know the class, `check` says that it does not know."""
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    path = job_file(tmp_path, MODEL.format(family="qwen3_moe", extra=""), "{text: stdlib, tokenizer: own}")
    (line,) = mistakes(path)
    assert line.startswith(
        "job.yaml:8:33: data.tokenizer: the tokenizer own needs its own code (auto_map); dougong runs"
    )
    with pytest.raises(DataError, match="needs its own code"):
        open_tokenizer(str(folder))
    (folder / "tokenizer.model").write_text("of another format")
    (note,) = folder_notes(load_whole_job(path).job)
    assert note.startswith(
        f"the tokenizer {folder} names its own code (auto_map), which is not run; `dougong plan` says"
    )
    train_tokenizer(folder)
    assert mistakes(path) == [] and list(folder_notes(load_whole_job(path).job)) == []


def test_a_small_file_that_is_not_there_in_truth_is_a_mistake_as_for_plan(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, GOOD | {"vocab_size": 256}, EMPTY)
    (folder / "generation_config.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    (line,) = mistakes(job_file(tmp_path, f"  path: {folder}"))
    assert "generation_config.json: is a git-lfs pointer" in line
