"""Job files: accepted with their meaning, refused with every mistake and its place, written back in full."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong.errors import DataError, JobError, ModelError
from dougong.job.drills.drill import Drill
from dougong.job.load import load_job, placed
from dougong.job.optimizers.adamw import AdamW
from dougong.job.parts.data import Validation
from dougong.job.parts.schedule import Schedule
from dougong.job.schema import Batch, Checkpoint, Fault, Island, Job
from dougong.job.yaml.scalars import write_flow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.launcher.jobs import QUICKSTART, SMALL, write


def mistakes(path: Path, *override: str) -> list[str]:
    """The lines of the refusal, without the folder."""
    with pytest.raises(JobError) as caught:
        load_job(path, override)
    assert caught.value.exit_status == 2
    return [line.replace(f"{path.parent}/", "", 1) for line in str(caught.value).splitlines()]


def test_the_quickstart_means_what_it_says() -> None:
    job = load_job(QUICKSTART).job
    assert job.job == "quickstart" and job.steps == 60 and job.seed == 1234 and job.precision == "float32"
    assert job.model.family == "qwen3_moe" and job.model.path is None
    assert job.model.config == {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 128, "intermediate_size": 256,
        "norm_topk_prob": True, "initializer_range": 0.08,
    }  # fmt: skip
    assert (job.data.text, job.data.tokenizer, job.data.sequence_length) == ("stdlib", "bytes", 256)
    assert job.data.validation == Validation(fraction=0.02, every=20, batches=4)
    assert job.batch == Batch(lanes=4, microbatches=2, microbatch_size=2)
    assert job.optimizer == AdamW(lr=3.0e-3, weight_decay=0.1, betas=(0.9, 0.95), clip_norm=1.0)
    assert job.schedule == Schedule(name="cosine", warmup_steps=10, final_fraction=0.1)
    assert job.islands == (Island(name="east", accelerator="cpu", workers=2, role="both"),)
    assert job.checkpoint == Checkpoint(every=20, keep=2) and job.fault == Fault(max_restarts=3)
    assert job.drill == (Drill(at_step=30, kill="east/1"),)


def test_an_unknown_key_is_told_with_its_place(tmp_path: Path) -> None:
    text = QUICKSTART.read_text().replace("workers: 2", "worker: 2")
    lines = mistakes(write(tmp_path, text))
    assert "job.yaml:21:36: islands.0.worker: unknown key; did you mean 'workers'?" in lines


def test_what_is_found_later_is_placed_as_well(tmp_path: Path) -> None:
    resolved = load_job(write(tmp_path), ["steps=20"])
    place = f"{tmp_path}/job.yaml:2:17"
    with pytest.raises(ModelError, match=f"^{place}: model.family: cannot be built$"), placed(resolved):
        raise ModelError("model.family: cannot be built")
    with pytest.raises(JobError, match="^-o steps=20: steps: too many$"), placed(resolved):
        raise JobError("steps: too many")
    with pytest.raises(DataError, match=r"^tokens.bin: cut short$"), placed(resolved):
        raise DataError("tokens.bin: cut short")


def test_every_mistake_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, model="{famly: a, config: {num_experts: yes}}", batch="{lanes: 1, lanes: '2'}", steps="0",
        schedule="{warmup_steps: 3, nam: x}", islands="[{name: east, accelerator: gpu}, {name: east}]", seed="1.5",
        fault="", checkpoint="{every: 20, kept: 2}",
    )  # fmt: skip
    assert mistakes(path) == [
        "job.yaml:2:9: model.famly: unknown key; did you mean 'family'?",
        "job.yaml:2:41: model.config.num_experts: yes, no, on and off are text in YAML 1.2; write true or false, or "
        "put it in quotes",
        "job.yaml:4:19: batch.lanes: given twice, first on line 4; keep one",
        "job.yaml:5:8: steps: must be greater than 0 (got 0): steps to train",
        "job.yaml:6:37: islands.0.accelerator: must be 'cpu', 'cuda', 'rocm', 'npu', 'mlu', 'musa', 'gcu' "
        "or 'xpu' (got 'gpu'); did you mean 'cuda'?",
        "job.yaml:6:43: islands.1.accelerator: missing; add `accelerator: ...`, kind of device: `cpu`, "
        "`cuda`, `rocm`, `npu`, `mlu`, `musa`, `gcu`, `xpu`, or what an installed package adds (docs/accelerators.md)",
        "job.yaml:7:29: schedule.nam: unknown key; did you mean 'name'?",
        "job.yaml:8:7: seed: must be a whole number (got 1.5): of every random stream: weights, data, dropout",
        "job.yaml:9:7: fault: must be a mapping with the keys max_restarts, per_hour, actions, quarantine, "
        "without_spare, non_finite, audit, max_skips, snapshots, deadlines "
        "(got null); remove the key to get the default",
        "job.yaml:10:25: checkpoint.kept: unknown key; did you mean 'keep'?",
    ]


def test_rules_are_asked_of_the_sections_that_are_right(tmp_path: Path) -> None:
    lines = mistakes(write(tmp_path, data="{}", seed="x", batch="{lanes: 1}"))
    assert [line.split(": ")[1] for line in lines] == ["data", "batch.lanes", "seed"]


def test_a_block_list_s_missing_key_is_marked_at_its_item(tmp_path: Path) -> None:
    assert mistakes(write(tmp_path, islands="\n  - name: east\n    workers: 2")) == [
        "job.yaml:7:5: islands.0.accelerator: missing; add `accelerator: ...`, kind of device: `cpu`, `cuda`, "
        "`rocm`, `npu`, `mlu`, `musa`, `gcu`, `xpu`, or what an installed package adds (docs/accelerators.md)"
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"# nothing\n\n", "the file is empty"),
        (b"- a\n- b\n", "holds a list"),
        (b"just text\n", "holds a single value"),
        (b"job: a\nmodel: \xff\n", "job.yaml:2:8: not UTF-8 (byte 14 is 0xff)"),
        (b"job: [a\n", "job.yaml:2:1: not YAML"),
        ("job: small\n".encode("utf-16"), "not UTF-8"),
        (b"[" * 4000, "nested deeper"),
    ],
)
def test_files_that_hold_no_job(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(data)
    (line,) = mistakes(path)
    assert line.startswith("job.yaml:") and words in line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "none.yaml") == ["none.yaml: there is no such file; check the path"]
    with (tmp_path / "tokens.bin").open("wb") as hole:
        hole.truncate(1 << 40)
    (told,) = mistakes(tmp_path / "tokens.bin")
    assert told.startswith("tokens.bin: has more than 16 MiB, which no job file has; name the job file")
    assert mistakes(tmp_path) == [f"{tmp_path}: a folder; name the job file in it".replace(f"{tmp_path.parent}/", "")]
    assert mistakes(tmp_path / ("x" * 300))[0].endswith("check its permissions")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_job(path).job.job == "small"


@pytest.mark.parametrize(("text", "lr"), [("1e-3", 1e-3), ("3.0e-4", 3e-4), ("1", 1.0), ("2E-2", 0.02)])
def test_learning_rates_as_people_write_them(tmp_path: Path, text: str, lr: float) -> None:
    assert load_job(write(tmp_path, optimizer=f"{{lr: {text}}}")).job.optimizer.lr == lr


@pytest.mark.parametrize("name", ["no", "on", "y"])
def test_names_that_yaml_1_1_takes_for_truth_values(tmp_path: Path, name: str) -> None:
    assert load_job(write(tmp_path, job=name)).job.job == name


def test_anchors_and_merges(tmp_path: Path) -> None:
    islands = "[&a {name: east, accelerator: cpu}, {<<: *a, name: west}]"
    job = load_job(write(tmp_path, islands=islands)).job
    assert [(i.name, i.accelerator) for i in job.islands] == [("east", "cpu"), ("west", "cpu")]


def test_a_key_of_the_run_s_own_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    path = write(tmp_path / "jobs", checkpoint="{sign: keys/a.key}")
    assert load_job(path).job.checkpoint.sign == str(tmp_path / "jobs/keys/a.key")
    assert load_job(path, ["checkpoint.sign=a.key"]).job.checkpoint.sign == str(tmp_path / "a.key")
    assert load_job(path, ["checkpoint.sign=run"]).job.checkpoint.sign == "run"


def test_paths_count_from_the_file_and_those_of_overrides_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_folder, here = tmp_path / "jobs [1]", tmp_path / "here"
    for folder in (job_folder, here):
        folder.mkdir()
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text("text")
    monkeypatch.chdir(here)
    path = write(job_folder, data="{text: a.txt}")
    assert load_job(path).job.data.text == str(job_folder / "a.txt")
    assert load_job(path, ["data.text=b.txt"]).job.data.text == str(here / "b.txt")
    assert load_job(path, ["data.text=*.txt"]).job.data.text == str(here / "*.txt")
    relative = Path("../jobs [1]/job.yaml")
    assert Path(str(load_job(relative).job.data.text)).samefile(job_folder / "a.txt")
    glob = load_job(write(job_folder, data="{text: '[ab].txt'}"))
    assert glob.job.data.text == str(tmp_path / "jobs [[]1]" / "[ab].txt")
    assert load_job(write(job_folder, data=f"{{text: {here}/a.txt}}")).job.data.text == f"{here}/a.txt"


def test_the_cache_counts_from_the_file_too(tmp_path: Path) -> None:
    path = write(tmp_path, cache="scratch")
    assert load_job(path).job.cache == str(tmp_path / "scratch")
    assert load_job(path, ["cache=/fast"]).job.cache == "/fast"
    assert load_job(path, ["cache=null"]).job.cache is None


def test_a_text_that_is_taken_away_names_no_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path, data="{text: stdlib}", model="{family: qwen3_moe, config: {vocab_size: 99}}")
    (tmp_path / "t.bin").write_bytes(bytes(999))
    data = load_job(path, ["data.text=null", f"data.tokens={tmp_path}/t.bin"]).job.data
    assert (data.text, data.tokenizer, data.tokens) == (None, None, f"{tmp_path}/t.bin")


def test_names_are_not_taken_for_paths(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, data="{dataset: some/name, tokenizer: bytes}")).job
    assert (job.data.dataset, job.data.tokenizer) == ("some/name", "bytes")
    (tmp_path / "some" / "name").mkdir(parents=True)
    assert load_job(tmp_path / "job.yaml").job.data.dataset == str(tmp_path / "some" / "name")


def test_origins(tmp_path: Path) -> None:
    path = write(tmp_path)
    origins = load_job(path, ["islands.east.workers=1", "model.config={num_experts: 8}"]).origins
    assert origins["job"] == f"{path}:1"
    assert origins["islands.0.name"] == f"{path}:6"
    assert origins["islands.0.workers"] == "-o islands.east.workers=1"
    assert origins["model.config.num_experts"] == "-o model.config={num_experts: 8}"
    assert origins["optimizer.betas"] == origins["seed"] == origins["drill"] == "default"


def test_comments_are_aligned_and_name_the_origin(tmp_path: Path) -> None:
    text = load_job(write(tmp_path), ["steps=7"]).to_yaml(comments=True)
    lines = {line.partition("  #")[0].strip(): line for line in text.splitlines() if "#" in line}
    assert lines["steps: 7"].endswith("# -o steps=7")
    assert lines["- name: east"].endswith("job.yaml:6")
    assert lines["role: both"].endswith("# default")
    assert len({line.index("#") for line in lines.values()}) == 1
    assert yaml.safe_load(text) == yaml.safe_load(load_job(write(tmp_path), ["steps=7"]).to_yaml())


@pytest.mark.parametrize(
    "override", [[], ["drill=[]"], ["islands.1={name: west, accelerator: npu}", "precision=bfloat16"]]
)
def test_what_is_written_loads_to_the_same_job(tmp_path: Path, override: list[str]) -> None:
    resolved = load_job(QUICKSTART, override)
    assert load_job(write(tmp_path, resolved.to_yaml())).job == resolved.job
    assert Job.model_validate(yaml.safe_load(resolved.to_yaml())) == resolved.job
    assert Job.model_validate_json(resolved.job.model_dump_json()) == resolved.job


CONFIG = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(st.text(max_size=200).filter(lambda key: key not in ("num_experts", "top_k")), CONFIG, max_size=4)
)
def test_any_model_configuration_comes_through(tmp_path: Path, config: dict[str, Any]) -> None:
    job = load_job(write(tmp_path)).job.model_dump(mode="json")
    job["model"]["config"] = config
    path = tmp_path / "job.yaml"
    path.write_text(write_flow(job), encoding="utf-8")
    resolved = load_job(path)
    assert resolved.job.model.config == config
    path.write_text(resolved.to_yaml(), encoding="utf-8")
    assert load_job(path).job == resolved.job
    path.write_text(resolved.to_yaml(comments=True), encoding="utf-8")
    assert load_job(path).job == resolved.job


def test_infinity_comes_through(tmp_path: Path) -> None:
    config = "{time_step_limit: [0.0, .inf]}"
    resolved = load_job(write(tmp_path, model=f"{{family: bamba, config: {config}}}"))
    assert resolved.job.model.config["time_step_limit"] == [0.0, math.inf]
    assert load_job(write(tmp_path, resolved.to_yaml())).job == resolved.job
    assert Job.model_validate_json(resolved.job.model_dump_json()) == resolved.job


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.text(alphabet="ab:-[]{}&*!<>|'\"\n #,?01%@~\t\0é", max_size=5))
def test_a_spoilt_file_is_read_or_refused(tmp_path: Path, at: int, spoil: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SMALL[:at] + spoil + SMALL[at + len(spoil) :], encoding="utf-8")
    try:
        assert isinstance(load_job(path).job, Job)
    except JobError as error:
        for line in str(error).splitlines():
            assert line.startswith(f"{path}:") and line.isprintable()


def test_paths_of_a_mixture_are_made_absolute_and_name_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, job_folder = tmp_path / "here", tmp_path / "jobs"
    for folder in (here, job_folder):
        folder.mkdir()
        for name in ("a.txt", "b.txt", "c.bin"):
            (folder / name).write_text(f"{folder}{name}")
    monkeypatch.chdir(here)
    items = "[{text: a.txt, weight: 3}, {tokens: c.bin, weight: 1}, {dataset: some/name, weight: 2}]"
    path = write(job_folder, data=f"{{mixture: {items}}}")
    resolved = load_job(path, ["data.mixture.0.text=b.txt", "data.mixture.1.weight=0.5"])
    mixture = resolved.job.data.mixture
    found = [(entry.text, entry.tokens, entry.dataset, entry.weight) for entry in mixture]
    tokens = str(job_folder / "c.bin")
    assert found == [
        (str(here / "b.txt"), None, None, 3.0),
        (None, tokens, None, 0.5),
        (None, None, "some/name", 2.0),
    ]
    assert resolved.job.data.tokenizer == "bytes" and resolved.origins["data.mixture.0.text"].startswith("-o ")
    again = job_folder / "again.yaml"
    again.write_text(resolved.to_yaml())
    assert load_job(again).job == resolved.job
    with pytest.raises(DataError, match=r"job.yaml:\d+:\d+: data.mixture.2.dataset: gone"), placed(load_job(path)):
        raise DataError("data.mixture.2.dataset: gone")
