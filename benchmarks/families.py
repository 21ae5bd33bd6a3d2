"""Every family with experts of the installed transformers, tiny, on three layouts.

    python benchmarks/families.py [--only FAMILY ...] [--page]

Each family is built of its class's own defaults made small (`tests/tiny.py`), trained three steps on one worker, on
three workers and with experts apart, and compared: bits of losses and of every tensor with moments, the first loss with
the unmodified model's, the experts' places with transformers' own plan, and a folder there and back. A family has a
process and four minutes of its own. What came of it stands in docs/families.jsonl, a line for each; docs/families.md is
the table. Exit status 1 where a family that can be trained has other bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from dougong.errors import DougongError, ModelError
from dougong.job.families import Families, read_families
from dougong.job.parts.router import Router
from dougong.job.schema import Job
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.library.classes import auto_class
from dougong.models.routers import find_choosers
from dougong.models.sites import find_sites
from dougong.models.ties import break_ties_by_index
from dougong.parallel.pieces import piece_named
from tests.checkpoint.saving import live_tensor
from tests.jobs import VOCAB, make_job, make_rig
from tests.parallel.test_layouts import run_layout
from tests.quantised_folders import to_fp8, unfold
from tests.reference import plain_step, reference_model
from tests.tiny import tiny_values

ROOT = Path(__file__).resolve().parents[1]
LINES, PAGE = ROOT / "docs" / "families.jsonl", ROOT / "docs" / "families.md"
LIMIT_S = 240
APART, TOGETHER = "AEE", "BBB"
BATCH = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}
BALANCING = {
    "bias": Router(bias_rate=0.001),
    "sequence": Router(sequence_loss=0.001),
    "global": Router(global_loss=0.01),
}
_REFUSAL = f"{ModelError.__module__}.{ModelError.__qualname__}: "
FP8_BLOCK = (8, 8)
NO_PLAN = "no plan"
SAME, TIES = "equal", "equal, ties by index"


@dataclass(frozen=True)
class Row:
    """What was found of a family. `refused`: why it is not trained; empty where it is. `together`, `apart`: `equal`, or
    what was otherwise than on one worker. `first`: its first loss beside the unmodified model's. `places`: the experts'
    beside those of transformers' plan. `balance`: options of `router:` that it takes. `folder`, `fused`, `fp8`: a job's
    tensors that begins with a folder as transformers writes it, as the model has it, and in FP8 blocks."""

    family: str
    refused: str = ""
    together: str = ""
    apart: str = ""
    first: str = ""
    places: str = ""
    balance: tuple[str, ...] = ()
    folder: str = ""
    fused: str = ""
    fp8: str = ""
    seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """Refused with its reason, or the same everywhere."""
        is_same = {self.together, self.apart, self.folder, self.fused} == {SAME}
        return bool(self.refused) or (is_same and self.fp8.startswith(SAME))


def main() -> None:
    """Look at families, keep what is found, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="these alone")
    parser.add_argument("--page", action="store_true", help="write the table alone")
    parser.add_argument("--one", metavar="FAMILY", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(dataclasses.asdict(look_at(asked.one))))
        return
    known = read_families()
    every = sorted({*known.with_experts, *known.refused})
    rows = {family: row for family, row in read_rows().items() if family in every}
    unknown = sorted(set(asked.only or ()) - set(every))
    if unknown:
        sys.exit(f"no family with experts of transformers {known.version}: {', '.join(unknown)}; see {PAGE}")
    wrong = []
    for family in [] if asked.page else asked.only or every:
        row = rows[family] = _in_a_process(family)
        print(f"{family}: {row.refused or words_of(row)} ({row.seconds:.0f} s)", flush=True)
        wrong += [] if row.is_right else [family]
        write_rows(rows)
    PAGE.write_text(page_of(known, rows), encoding="utf-8")
    if wrong:
        sys.exit(f"not the same everywhere: {', '.join(wrong)}")


def _in_a_process(family: str) -> Row:
    begun = time.monotonic()
    words = [sys.executable, __file__, "--one", family]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return Row(family, together=f"not ended within {LIMIT_S} s", seconds=LIMIT_S)
    seconds = round(time.monotonic() - begun, 1)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return Row(family, together=_brief(done.stderr.strip().splitlines()[-1:]), seconds=seconds)
    return dataclasses.replace(_row_of(json.loads(lines[-1])), seconds=seconds)


def look_at(family: str) -> Row:
    """Everything that is to be known of one family."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row = Row(family)
    try:
        job = make_job(model={"family": family, "config": tiny_values(family)}, batch=BATCH)
        model = build_on_meta(load_config(job.model, VOCAB))
        sites = find_sites(model)
    except DougongError as error:
        return dataclasses.replace(row, refused=_brief([str(error)]))
    names = [site.name for site in sites]
    options = tuple(
        name for name, router in BALANCING.items() if _is_taken(lambda r=router: find_choosers(model, sites, r))
    )
    row = dataclasses.replace(row, balance=options, places=_places(model, names))
    try:
        alone = run_layout(job, "B")
    except AssertionError as error:  # a worker's, in words
        (said,) = str(error).strip().splitlines()[-1:]
        return dataclasses.replace(row, **{"refused" if _REFUSAL in said else "together": _brief([said])})
    return dataclasses.replace(
        row,
        together=_compared(lambda: run_layout(job, TOGETHER), alone),
        apart=_compared(lambda: run_layout(job, APART), alone),
        first=_first_loss(job, alone[0][0]),
        folder=_there_and_back(job),
        fused=_live_names(job),
        fp8=_eight_bits(job),
    )


def _is_taken(ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except DougongError:
        return False
    return True


def _compared(run: Callable[[], Any], alone: tuple[list[float], dict[str, str]]) -> str:
    try:
        losses, tensors = run()
    except Exception as error:
        return _brief(str(error).strip().splitlines()[-1:])
    if losses != alone[0]:
        return "other losses"
    other = [name for name, digest in alone[1].items() if tensors.get(name) != digest]
    return f"{len(other)} of {len(tensors)} tensors are others, the first {other[0]}" if other else SAME


def _first_loss(job: Job, ours: float) -> str:
    """Beside that of transformers' own class, unmodified, with the same values."""
    values = reference_model(job).state_dict()
    config = load_config(job.model, VOCAB)
    config._experts_implementation = "eager"
    for words in (SAME, TIES):
        theirs = auto_class(config).from_config(config).train()
        theirs.load_state_dict(values)
        if words == TIES:
            break_ties_by_index(theirs, find_sites(build_on_meta(config)))
        torch.manual_seed(0)
        loss = plain_step(job, theirs)(1)
        if loss.hex() == ours.hex():
            return words
    return f"differs by {abs(loss - ours) / abs(loss):.0e}"


def _places(model: Any, sites: list[str]) -> str:
    """Whether transformers' plan for expert parallelism, where the family has one, names the same modules."""
    patterns = [
        re.compile(rf"(^|\.){re.escape(pattern).replace(re.escape('*'), '[^.]+')}$")
        for module in model.modules()
        for pattern in getattr(getattr(module, "config", None), "base_model_ep_plan", None) or {}
        if pattern.endswith(".experts")
    ]
    if not patterns:
        return ""
    named = {name for name, _ in model.named_modules() if any(pattern.search(name) for pattern in patterns)}
    other = sorted(named ^ set(sites))
    return f"{len(other)} others, the first {other[0]}" if other else SAME


def _there_and_back(job: Job) -> str:
    """transformers writes a folder, a job begins with it, and every tensor is the one that was written."""
    return _begun_with(job, lambda stock, folder: stock.save_pretrained(folder))


def _live_names(job: Job) -> str:
    """The same of a folder that holds every parameter as the model has it, experts together."""
    return _begun_with(job, lambda stock, folder: stock.save_pretrained(folder, save_original_format=False))


def _eight_bits(job: Job) -> str:
    """A folder in FP8 by blocks: every tensor is the one of transformers' own load with `dequantize=True`. Where that
    refuses the folder or leaves scales unread without an error, the one of its load of values times scales."""
    why: list[str] = []

    def fold(stock: Any, folder: str) -> Any:
        stock.to(torch.bfloat16).save_pretrained(folder)
        to_fp8(Path(folder), FP8_BLOCK)
        model, unread = _dequantised(type(stock), folder)
        if model is not None and not unread:
            return model
        why.append("refused" if model is None else f"{unread} scales unread")
        with tempfile.TemporaryDirectory() as plain:
            shutil.copytree(folder, plain, dirs_exist_ok=True)
            unfold(Path(plain), FP8_BLOCK)
            return type(stock).from_pretrained(plain, dtype=torch.float32)

    found = _begun_with(job, fold)
    return f"equal by hand ({why[0]})" if found == SAME and why else found


def _dequantised(kind: Any, folder: str) -> tuple[Any, int]:
    """transformers' load, None where it refuses; and how many scales it has left unread."""
    said = transformers.FineGrainedFP8Config(dequantize=True, weight_block_size=FP8_BLOCK)
    try:
        model, told = kind.from_pretrained(
            folder, quantization_config=said, dtype=torch.float32, output_loading_info=True
        )
    except Exception:  # of any kind: what is compared is said in the table
        return None, 0
    return model, len(told["unexpected_keys"])


def _begun_with(job: Job, write: Callable[[Any, str], Any]) -> str:
    """A job's tensors beside those of the model that `write` gives back (None: the one it was given)."""
    try:
        stock = reference_model(job)
        with tempfile.TemporaryDirectory() as folder:
            expected = write(stock, folder) or stock
            rig = make_rig(job.model_copy(update={"model": _model_at(folder)}))
        values = expected.state_dict()
        other = [name for name, tensor in rig.replica.masters.items() if not torch.equal(tensor, _live(values, name))]
    except Exception as error:
        return _brief(str(error).strip().splitlines()[-1:])
    return f"{len(other)} tensors are others, the first {other[0]}" if other else SAME


def _model_at(folder: str) -> Any:
    return make_job(model={"path": folder}).model


def _live(values: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Of a tensor, of one expert's part of it, or of a piece."""
    piece = piece_named(name)
    return live_tensor(values, name) if piece is None else values[piece.tensor].view(-1)[piece.range]


def _brief(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split()).removeprefix(_REFUSAL)[:300]


def read_rows(file: Path = LINES) -> dict[str, Row]:
    """What was found before, by family."""
    if not file.exists():
        return {}
    rows = map(_row_of, map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    return {row.family: row for row in rows}


def _row_of(values: dict[str, Any]) -> Row:
    return Row(**{**values, "balance": tuple(values["balance"])})


def write_rows(rows: dict[str, Row], file: Path = LINES) -> None:
    """One line each, in order."""
    lines = [json.dumps(dataclasses.asdict(rows[family])) + "\n" for family in sorted(rows)]
    file.write_text("".join(lines), encoding="utf-8")


def words_of(row: Row) -> str:
    """A row in a line of its own."""
    return f"together {row.together}; apart {row.apart}; first loss {row.first}; folder {row.folder}"


def page_of(known: Families, rows: dict[str, Row]) -> str:
    """The table, and why others are refused."""
    return "\n".join([*_head(), *_table(rows), "", *_refusals(known, rows), ""])


def _head() -> Iterator[str]:
    yield "# Families"
    yield ""
    yield f"Every model type with experts of transformers {transformers.__version__}, made small by its class's own"
    yield "keys (`tests/tiny.py`) and trained for three steps; written by `make families`. Equal: losses, every tensor"
    yield "and its moments have the same bits on three workers, and with the attention on one and the experts on two"
    yield "others, as on one worker. First loss: beside transformers' own class with the same values (ties by index:"
    yield "where that chooses the lower index among equal scores, as dougong does). Places: the experts', beside"
    yield "transformers' own plan for expert parallelism. `router:`: the ways of balancing that the family takes."
    yield "Folder: every tensor of a folder that transformers has written, as a job begins with it; live names: of one"
    yield "that has every parameter under the model's own name, experts together; FP8: of one whose matrices are FP8"
    yield "with a scale for each block, beside transformers' own load with `dequantize=True` (by hand: beside values"
    yield "times scales, since that load refuses the folder, or leaves scales unread without an error)."
    yield ""


def _table(rows: dict[str, Row]) -> Iterator[str]:
    yield "| family | three workers | experts apart | first loss | places | `router:` | folder | live names | FP8 |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for family in sorted(rows):
        row = rows[family]
        if not row.refused:
            cells = (family, row.together, row.apart, row.first, row.places or NO_PLAN, ", ".join(row.balance) or "-")
            yield f"| {' | '.join(cells)} | {row.folder} | {row.fused} | {row.fp8} |"


def _refusals(known: Families, rows: dict[str, Row]) -> Iterator[str]:
    yield "## Not trained"
    yield ""
    yield "| family | why |"
    yield "|---|---|"
    reasons = {**{family: row.refused for family, row in rows.items() if row.refused}, **known.refused}
    for family in sorted(reasons):
        yield f"| {family} | {_brief([reasons[family]]).replace('|', ' ')} |"


if __name__ == "__main__":
    main()
