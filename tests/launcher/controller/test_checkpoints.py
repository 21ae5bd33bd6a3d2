"""Parts become a checkpoint; what is damaged, or was computed otherwise, is passed over or refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.directories import pending_directory
from dougong.checkpoint.disk import digest
from dougong.checkpoint.manifest import FileRecord, Manifest
from dougong.checkpoint.part import CheckpointPart
from dougong.control.run_sources import RunSources
from dougong.control.worker_messages import PartDurable
from dougong.errors import CheckpointError, RecordError
from dougong.job.schema import Model
from dougong.launcher.agent.answers import InspectedModel
from dougong.launcher.controller.checkpoints import (
    CheckpointManager,
    RunOrigin,
    companions_of,
    compare_recipes,
    compare_versions,
)
from dougong.launcher.controller.config import ResumePoint
from dougong.launcher.controller.inbound.inbox import Background, Inbox
from dougong.launcher.controller.inbound.items import (
    CheckpointsPruned,
    CommitFailed,
    Committed,
    FoundCheckpoint,
    Item,
    TaskFailed,
)
from dougong.parallel.plan import Inventory, Seat, make_plan
from dougong.planner.recipe import ARITHMETIC, make_recipe
from dougong.planner.resume import identity
from dougong.records.events import CheckpointCommitted
from dougong.records.recomputation import RecordedStep
from tests.launcher.controller.conftest import JOB

INVENTORY = Inventory("toy", (), (), 4, ())
PLAN = make_plan(4, INVENTORY, [Seat(f"east/{i}", "east", "both", "n", f"cpu:{i}") for i in range(2)])
SOURCES = RunSources({"hidden_size": 8}, "a.B", "one")
MODEL = InspectedModel(
    INVENTORY, {"name": "a.txt", "digest": "one"}, None, make_recipe(JOB, INVENTORY), sources=SOURCES
)
ORIGIN = RunOrigin(MODEL)


def part(root: Path, worker: str, step: int, generation: int = 1) -> PartDurable:
    directory = pending_directory(root, step, generation)
    name = f"model/{worker.replace('/', '-')}.json"
    data = f"{worker} {step}".encode()
    (directory / "model").mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data)
    files = {name: FileRecord(len(data), digest(data))}
    rank = int(worker.rpartition("/")[2])
    durable = CheckpointPart(worker, rank, generation, step, directory.name, files, ())
    return PartDurable(step, directory.name, durable.to_json())


def result(inbox: Inbox) -> Item:
    item = inbox.get(20)
    assert item is not None
    return item


def commit(checkpoints: CheckpointManager, inbox: Inbox, step: int, parent: str | None = None) -> Committed:
    return save(checkpoints, inbox, step, parent)[0]


def told(item: Committed) -> CheckpointCommitted:
    return CheckpointCommitted(
        generation=1, step=item.step, directory=item.directory.name, num_bytes=item.num_bytes, seconds=item.seconds
    )


def save(
    checkpoints: CheckpointManager, inbox: Inbox, step: int, parent: str | None = None
) -> tuple[Committed, CheckpointsPruned]:
    parts = [part(checkpoints.root, worker, step) for worker in ("east/0", "east/1")]
    checkpoints.commit(step, 1, parts, PLAN, ORIGIN, parent)
    item = result(inbox)
    assert isinstance(item, Committed), item
    checkpoints.note(told(item))
    pruned = result(inbox)
    assert isinstance(pruned, CheckpointsPruned), pruned
    return item, pruned


def find(checkpoints: CheckpointManager, inbox: Inbox, origin: RunOrigin = ORIGIN) -> FoundCheckpoint:
    checkpoints.find(origin)
    item = result(inbox)
    assert isinstance(item, FoundCheckpoint), item
    return item


def refusal(checkpoints: CheckpointManager, inbox: Inbox, origin: RunOrigin) -> str:
    checkpoints.find(origin)
    item = result(inbox)
    assert isinstance(item, TaskFailed) and isinstance(item.error, CheckpointError), item
    return str(item.error)


def test_a_checkpoint_says_of_what_it_was_made(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    done = commit(checkpoints, inbox, 5)
    assert done.directory == checkpoints.root / "step-000005"
    metadata = Manifest.load(done.directory).metadata
    assert metadata["data"] == {"name": "a.txt", "digest": "one", "step": 5, "samples": 20, "tokens": 20 * 256}
    assert metadata["parent"] is None
    assert metadata["job"] == identity(JOB)
    assert metadata["sources"]["config"] == {"hidden_size": 8}
    assert metadata["recipe"] == {"digest": MODEL.recipe.digest, **MODEL.recipe.to_dict()}
    assert metadata["plan"][1] == {"worker": "east/1", "lanes": [2, 3], "experts": []}
    assert commit(checkpoints, inbox, 10, "step-000005").directory.name == "step-000010"
    assert Manifest.load(checkpoints.root / "step-000010").metadata["parent"] == "step-000005"


def test_small_files_of_the_model_folder_travel_on_when_it_is_gone(tmp_path: Path) -> None:
    base, own = tmp_path / "base", tmp_path / "own"
    for folder, tokenizer in ((base, "{}"), (own, '{"trained": "with"}')):
        folder.mkdir()
        (folder / "tokenizer.json").write_text(tokenizer)
    (base / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    (base / "chat_template.jinja").write_text("{{ messages }}")
    job = JOB.model_copy(update={"model": Model(path=str(base), config={"pad_token_id": 9})})
    bounded = CheckpointManager(tmp_path / "run", job, Background("test-commit", inbox := Inbox()))
    find(bounded, inbox)
    shutil.rmtree(base)  # before the first checkpoint is due
    done = commit(bounded, inbox, 5)
    model = done.directory / "model"
    assert json.loads((model / "generation_config.json").read_text()) == {"eos_token_id": [2, 5], "pad_token_id": 9}
    assert (model / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (model / "tokenizer.json").read_text() == "{}"
    # A later process of the run, which finds neither the folder nor a changed one.
    later = CheckpointManager(tmp_path / "run", job, Background("test-commit", inbox))
    (commit(later, inbox, 10).directory / "model/chat_template.jinja").read_text()
    data = job.data.model_copy(update={"tokenizer": str(own)})
    files = companions_of(tmp_path / "other", JOB.model_copy(update={"data": data}))
    assert files == {"tokenizer.json": b'{"trained": "with"}'}


def test_old_checkpoints_go(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    removed = [save(checkpoints, inbox, step)[1].removed for step in (5, 10, 15)]
    assert removed == [(), (), ("step-000005",)]


def test_what_cannot_be_deleted_is_told_once_and_no_commit_that_failed(
    checkpoints: CheckpointManager, inbox: Inbox, tmp_path: Path
) -> None:
    """A link ended a finished run, which said that its checkpoint had not been committed."""
    for step in (5, 10):
        commit(checkpoints, inbox, step)
    (checkpoints.root / "step-000005").rename(tmp_path / "elsewhere")
    (checkpoints.root / "step-000005").symlink_to(tmp_path / "elsewhere")
    told = [save(checkpoints, inbox, step)[1] for step in (15, 20)]
    assert told[0].left == (("step-000005", f"a link to {tmp_path / 'elsewhere'}"),)
    assert (told[1].left, told[1].removed) == ((), ("step-000010",))
    assert list((tmp_path / "elsewhere").rglob("*.json")), "what it leads to is whole"


def test_a_commit_that_fails_is_told_and_the_next_may_succeed(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    parts = [part(checkpoints.root, worker, 5) for worker in ("east/0", "east/1")]
    os.unlink(pending_directory(checkpoints.root, 5, 1) / "model" / "east-1.json")
    checkpoints.commit(5, 1, parts, PLAN, ORIGIN, None)
    failed = result(inbox)
    assert isinstance(failed, CommitFailed) and failed.step == 5
    assert isinstance(failed.error, CheckpointError)
    assert commit(checkpoints, inbox, 10).step == 10


def test_parts_of_two_generations_are_refused(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    parts = [part(checkpoints.root, "east/0", 5, 1), part(checkpoints.root, "east/1", 5, 2)]
    checkpoints.commit(5, 2, parts, PLAN, ORIGIN, None)
    failed = result(inbox)
    assert isinstance(failed, CommitFailed) and "generation 1" in str(failed.error)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "name", "rejected"),
    [
        (lambda root: None, "step-000010", 0),
        (lambda root: flip(root / "step-000010" / "model" / "east-0.json"), "step-000005", 1),
        (lambda root: (root / "step-000010" / "manifest.json").unlink(), "step-000005", 1),
    ],
)
def test_the_newest_valid_one_is_found(
    checkpoints: CheckpointManager, inbox: Inbox, damage: Callable[[Path], None], name: str, rejected: int
) -> None:
    commit(checkpoints, inbox, 5)
    commit(checkpoints, inbox, 10)
    damage(checkpoints.root)
    found = find(checkpoints, inbox)
    assert found.directory == checkpoints.root / name
    assert [one.name for one in found.rejected] == ["step-000010"] * rejected
    aside = checkpoints.root / "set-aside" / "1" / "step-000010.damaged"
    assert [one.aside for one in found.rejected] == [aside] * rejected and aside.is_dir() is bool(rejected)
    commit(checkpoints, inbox, 15)
    again = commit(checkpoints, inbox, 20)
    assert again.directory == checkpoints.root / "step-000020" and aside.is_dir() is bool(rejected)


def test_nothing_is_found_where_there_is_nothing(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    assert find(checkpoints, inbox) == FoundCheckpoint(None)


def again(root: Path, inbox: Inbox, **point: Any) -> CheckpointManager:
    """The manager of a later controller."""
    return CheckpointManager(root, JOB, Background("test-commit", inbox), ResumePoint(2, **point))


def damage(root: Path, *steps: int) -> None:
    for step in steps:
        flip(root / f"step-{step:06d}" / "model" / "east-0.json")


def left(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("step-*") if path.is_dir())


def test_where_all_are_damaged_nothing_begins_anew(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    for step in (5, 10):
        commit(checkpoints, inbox, step)
    damage(checkpoints.root, 5, 10)
    found = find(again(checkpoints.root, inbox, has_committed=True), inbox)
    assert found.directory is None and found.refusal is not None
    text, run = str(found.refusal), checkpoints.root.parent
    assert f"no checkpoint is valid (step-000010, step-000005; `dougong verify {run}` says" in text
    assert f"`dougong resume {run} --from-scratch`" in text
    assert [one.name for one in found.rejected] == ["step-000010", "step-000005"]
    assert all("east-0.json" in one.reason for one in found.rejected)
    assert left(checkpoints.root) == ["step-000005", "step-000010"]
    # In a recovery of the controller that has written them it is the same, and the damage is not told twice.
    assert find(checkpoints, inbox).refusal is not None
    assert find(checkpoints, inbox).rejected == ()


def test_checkpoints_that_are_gone_are_no_beginning(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    found = find(again(checkpoints.root, inbox, has_committed=True), inbox)
    assert found.refusal is not None and "had are gone; mend or mount the storage" in str(found.refusal)
    assert found.is_away


def test_from_scratch_everything_is_set_aside(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    for step in (5, 10):
        commit(checkpoints, inbox, step)
    damage(checkpoints.root, 10)
    anew = again(checkpoints.root, inbox, has_committed=True, chosen=0)
    found = find(anew, inbox)
    aside = checkpoints.root / "set-aside" / "1"
    assert found == FoundCheckpoint(None, moved=("step-000010", "step-000005"), aside=aside)
    assert left(checkpoints.root) == ["set-aside/1/step-000005", "set-aside/1/step-000010"]
    assert find(anew, inbox) == FoundCheckpoint(None)  # before its first checkpoint a recovery begins anew too
    commit(anew, inbox, 5)
    assert find(anew, inbox).directory == checkpoints.root / "step-000005"


def test_a_chosen_checkpoint_sets_the_later_ones_aside(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    for step in (5, 10):
        commit(checkpoints, inbox, step)
    damage(checkpoints.root, 10)
    with pytest.raises(CheckpointError, match=r"east-0\.json.*choose another --step, there are: 5, 10"):
        raise failure(again(checkpoints.root, inbox, chosen=10), inbox)
    assert left(checkpoints.root) == ["step-000005", "step-000010"]
    chosen = again(checkpoints.root, inbox, has_committed=True, chosen=5)
    found = find(chosen, inbox)
    assert (found.directory, found.moved) == (checkpoints.root / "step-000005", ("step-000010",))
    assert left(checkpoints.root) == ["set-aside/1/step-000010", "step-000005"]
    commit(chosen, inbox, 10)
    assert find(chosen, inbox).directory == checkpoints.root / "step-000010"  # the wish was met once


def test_a_refused_choice_moves_nothing(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    for step in (5, 10):
        commit(checkpoints, inbox, step)
    data = other(data={"name": "b.txt", "digest": "two"})
    assert "was trained on data" in str(failure(again(checkpoints.root, inbox, chosen=5), inbox, data))
    assert left(checkpoints.root) == ["step-000005", "step-000010"]


def failure(checkpoints: CheckpointManager, inbox: Inbox, origin: RunOrigin = ORIGIN) -> BaseException:
    checkpoints.find(origin)
    item = result(inbox)
    assert isinstance(item, TaskFailed), item
    return item.error


def test_a_damaged_checkpoint_is_never_deleted_and_told_once(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    for step in (5, 10):
        commit(checkpoints, inbox, step)
    damage(checkpoints.root, 5)
    later = again(checkpoints.root, inbox, has_committed=True)
    assert find(later, inbox).directory == checkpoints.root / "step-000010"
    done = [save(later, inbox, step)[1] for step in (15, 20, 25)]
    assert [one.invalid for one in done] == [("step-000005",), (), ()]
    assert [one.removed for one in done] == [(), ("step-000010",), ("step-000015",)]
    assert left(checkpoints.root) == ["step-000005", "step-000020", "step-000025"]


def other(**changes: Any) -> RunOrigin:
    return RunOrigin(dataclasses.replace(MODEL, **changes))


def test_a_checkpoint_of_another_recipe_is_refused_or_warned_of(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    commit(checkpoints, inbox, 5)
    origin = other(recipe=dataclasses.replace(MODEL.recipe, arithmetic=99))
    text = refusal(checkpoints, inbox, origin)
    assert f"another recipe (arithmetic: {ARITHMETIC} then, 99 now)" in text and "-o numerics=bounded" in text
    bounded = CheckpointManager(
        checkpoints.root, JOB.model_copy(update={"numerics": "bounded"}), Background("test-bounded", inbox)
    )
    (warning,) = find(bounded, inbox, origin).warnings
    assert f"arithmetic: {ARITHMETIC} then, 99 now" in warning


def test_a_checkpoint_of_other_data_is_refused(checkpoints: CheckpointManager, inbox: Inbox) -> None:
    commit(checkpoints, inbox, 5)
    text = refusal(checkpoints, inbox, other(data={"name": "a.txt", "digest": "two"}))
    assert "digest one, but a.txt has two" in text
    assert find(checkpoints, inbox).directory == checkpoints.root / "step-000005"


@pytest.mark.parametrize(
    ("before", "now", "numerics", "told", "refused"),
    [
        ({"transformers": "5.23.0", "numpy": "2.1"}, {"transformers": "5.23.0", "numpy": "2.1"}, "exact", "", False),
        ({"transformers": "5.23.0"}, {"transformers": "5.20.0"}, "exact", "transformers 5.23.0 then, 5.20.0 now", True),
        ({"transformers": "5.23.0"}, {"transformers": "5.20.0"}, "bounded", "transformers 5.23.0 then", False),
        ({"tokenizers": "0.22", "numpy": "2.1"}, {"tokenizers": "0.23", "numpy": "2.2"}, "exact",
         "tokenizers 0.22 then, 0.23 now; numpy 2.1 then, 2.2 now", False),
        ({}, {"safetensors": "0.7"}, "exact", "", False),  # an older release did not write it down
    ],
)  # fmt: skip
def test_other_software_is_refused_where_it_computes_and_told_elsewhere(
    before: dict[str, str], now: dict[str, str], numerics: str, told: str, refused: bool
) -> None:
    job = JOB.model_copy(update={"numerics": numerics})
    path = Path("/run/step-000005")
    if refused:
        with pytest.raises(CheckpointError) as caught:
            compare_versions(job, path, {"versions": before}, now)
        assert told in str(caught.value) and "pip install transformers==5.23.0, or accept them" in str(caught.value)
        return
    warnings = compare_versions(job, path, {"versions": before}, now)
    assert told in "".join(warnings) and bool(warnings) == bool(told)


def with_rows(tmp_path: Path, inbox: Inbox, read: Callable[[], Any]) -> CheckpointManager:
    return CheckpointManager(tmp_path, JOB, Background("test-rows", inbox), read_rows=read)


def test_what_was_recorded_after_the_checkpoint_comes_with_it(tmp_path: Path, inbox: Inbox) -> None:
    rows = [{"generation": 1, "step": step, "ledger": f"{step:02x}"} for step in range(1, 8)]
    checkpoints = with_rows(tmp_path, inbox, lambda: iter(rows))
    assert list(find(checkpoints, inbox).recorded) == [1, 2, 3, 4, 5, 6, 7]  # from the beginning
    parts = [part(tmp_path, worker, 5) for worker in ("east/0", "east/1")]
    parts = [dataclasses.replace(one, part={**one.part, "ledger": "05"}) for one in parts]
    checkpoints.commit(5, 1, parts, PLAN, ORIGIN, None)
    assert isinstance(result(inbox), Committed)
    assert find(checkpoints, inbox).recorded == {6: RecordedStep(1, "06"), 7: RecordedStep(1, "07")}


def test_rows_that_cannot_be_read_are_told_and_hold_nothing_up(tmp_path: Path, inbox: Inbox) -> None:
    def damaged() -> Any:
        raise RecordError("metrics.jsonl:3: not JSON")

    found = find(with_rows(tmp_path, inbox, damaged), inbox)
    assert found.recorded == {}
    assert found.warnings == ("metrics.jsonl:3: not JSON; so steps that are computed again are compared with nothing",)


def test_other_forms_are_another_recipe_and_forms_that_nobody_wrote_down_are_not(
    checkpoints: CheckpointManager, inbox: Inbox
) -> None:
    commit(checkpoints, inbox, 5)
    written = Manifest.load(checkpoints.root / "step-000005").metadata
    formed = other(recipe=dataclasses.replace(MODEL.recipe, attention="sdpa", experts="grouped 2"))
    assert compare_recipes(JOB, checkpoints.root, written, formed) == ()
    older = {**written, "recipe": {**written["recipe"], "experts": "grouped 1"}}
    with pytest.raises(CheckpointError, match=r"another recipe \(experts: grouped 1 then, grouped 2 now\)"):
        compare_recipes(JOB, checkpoints.root, older, formed)
