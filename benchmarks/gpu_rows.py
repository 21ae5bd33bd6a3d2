"""One row of `benchmarks/gpu.py`, in a process of its own: `python benchmarks/gpu_rows.py ROW --accelerator cuda`.

Prints what it has found as a JSON list of sentences in its last line, and ends with an error where a promise is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from dougong.accelerators.registry import get_accelerator

ROOT = Path(__file__).resolve().parent.parent
Sentences = list[str]
SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "intermediate_size": 96,
}  # fmt: skip
STEPS = 6


def opened(device: str) -> Any:
    """The device, with a worker's environment and switches."""
    accelerator = get_accelerator(device)
    os.environ.update(accelerator.worker_environment(1))
    return accelerator.open(0)


def is_small(device: str) -> bool:
    """A processor shows that a row runs, not what it is for."""
    return device == "cpu"


def drawn(torch: Any, device: Any, *shape: int, dtype: Any = None) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).to(device, dtype or torch.float32)


def versions(device: str) -> Sentences:
    place = opened(device)
    import torch

    found = [
        f"torch {torch.__version__}",
        f"device {place}",
        *map(" ".join, get_accelerator(device).describe().items()),
    ]
    with contextlib.suppress(ImportError):
        import triton

        found.append(f"triton {triton.__version__}")
    if device == "cuda":
        found.append(f"NCCL {torch.cuda.nccl.version()}")
    found.append(f"compiler {shutil.which('gcc') or 'none'}")
    return found


def attention(device: str) -> Sentences:
    """Each form: 20 repetitions, strict; what torch's mere warning would have given, and the price of strictness."""
    place = opened(device)
    import torch

    from dougong.fingerprint.attention import ask_attention, is_deterministic
    from dougong.models.library.attention_forms import FORMS

    sentences = []
    for dtype in (torch.bfloat16, torch.float32):
        for length in (261,) if is_small(device) else (261, 1024, 4096):
            for form in FORMS:
                answer = ask_attention(form, place, dtype, length)
                state = "one answer" if answer.is_deterministic else answer.words
                sentences.append(f"{form} {length} {str(dtype)[6:]}: {state}")
            if not is_deterministic("eager", place, dtype, length, 3):
                raise SystemExit(f"eager attention has two answers at {length} tokens")
    times = {}
    for warn_only in (True, False):
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
        begun = time.perf_counter()
        answer = ask_attention("sdpa", place, torch.bfloat16, 261 if is_small(device) else 4096)
        times[warn_only] = time.perf_counter() - begun
        if warn_only:
            sentences.append(
                f"sdpa while torch only warns: {'one answer' if answer.is_deterministic else answer.words}"
            )
    return [*sentences, f"strict over warned of: {times[False] / times[True]:.2f} of the time"]


def adamw(device: str) -> Sentences:
    place = opened(device)
    import torch

    from dougong.job.optimizers.adamw import AdamW
    from dougong.training.optimizers.adamw import OwnedAdamW

    def begun() -> tuple[Any, Any]:
        weight = drawn(torch, place, 1000)
        return weight, OwnedAdamW(AdamW(), {"w": weight})

    def step(weight: Any, optimizer: Any, number: int) -> None:
        optimizer.step({"w": torch.full_like(weight, 0.1 * number)}, 1e-3)

    straight, optimizer = begun()
    for number in range(4):
        step(straight, optimizer, number)
    weight, optimizer = begun()
    for number in range(3):
        step(weight, optimizer, number)
    resumed = weight.clone()
    other = OwnedAdamW(AdamW(), {"w": resumed})
    for kind, name, value in optimizer.state():
        other.load(kind, name, value.cpu())
    step(resumed, other, 3)
    if not torch.equal(resumed, straight):
        raise SystemExit("a resumed update has other bits")
    sentence = "3 steps, saved, loaded, 1 step: the bits of 4 steps"
    return [sentence, f"a matrix that is owned in {in_pieces(torch, place)} pieces: the bits of a whole one"]


def in_pieces(torch: Any, place: Any) -> int:
    """How many pieces of a matrix have been updated apart, with the bits of the whole."""
    from dougong.job.optimizers.adamw import AdamW
    from dougong.parallel.dense.buckets import ALIGNMENT
    from dougong.training.optimizers.adamw import OwnedAdamW

    whole = drawn(torch, place, 331, 257)
    gradient, pieces = drawn(torch, place, 331, 257), whole.clone().view(-1).split(64 * ALIGNMENT)
    parts = {f"w[{number}]": piece for number, piece in enumerate(pieces)}
    alone = OwnedAdamW(AdamW(), {"w": whole})
    apart = OwnedAdamW(AdamW(), parts, dict.fromkeys(parts, tuple(whole.shape)))
    for number in range(1, 4):
        alone.step({"w": number * gradient}, 1e-3)
        of_parts = (number * gradient).view(-1).split(64 * ALIGNMENT)
        apart.step(dict(zip(parts, of_parts, strict=True)), 1e-3)
    if not torch.equal(torch.cat(pieces), whole.view(-1)):
        raise SystemExit("an update in pieces has other bits")
    return len(pieces)


def moved_on(values: Any, offset: int) -> Any:
    """The same values `offset` elements into a buffer."""
    return values.new_empty(values.numel() + offset)[offset:].view_as(values).copy_(values)


def linear(device: str) -> Sentences:
    """How many of the shapes have other bits where an input begins elsewhere."""
    place = opened(device)
    import torch
    import torch.nn.functional as F

    weights = ((2880, 2880), (2048, 768), (768, 2048), (5120, 2880), (128, 2048))
    shapes = [(m, n, k) for m, (n, k) in itertools.product((1, 7, 64, 200), weights)]
    shapes = shapes[:4] if is_small(device) else shapes
    unequal: Counter[str] = Counter()
    for (m, n, k), offset in itertools.product(shapes, (64, 128)):  # elements: 128 and 256 bytes
        rows, weight, bias = (drawn(torch, place, *s, dtype=torch.bfloat16) for s in ((m, k), (n, k), (n,)))
        for name, given in (("with bias", bias), ("without", None)):
            due = F.linear(rows, weight, given)
            input_moved = F.linear(moved_on(rows, offset), weight, given)
            weight_moved = F.linear(rows, moved_on(weight, offset), given)
            unequal[f"{name}, input {2 * offset} bytes on"] += int(not torch.equal(input_moved, due))
            unequal[f"{name}, weight {2 * offset} bytes on"] += int(not torch.equal(weight_moved, due))
    return [f"{name}: other bits in {count} of {len(shapes)}" for name, count in unequal.items()]


def rows(device: str) -> Sentences:
    """torch's row sums and ours, of the same rows with fewer others beside them."""
    place = opened(device)
    import torch

    from dougong.ops.permute import sum_of_rows

    unequal: Counter[str] = Counter()
    for width in (2048, 7168, 8192, 12288):
        values = drawn(torch, place, 64, width)
        for name, add in (("torch's", lambda v: v.sum(-1)), ("ours", lambda v: sum_of_rows(v, torch.float32))):
            due = add(values)
            unequal[name] += sum(not torch.equal(add(values[:count]), due[:count]) for count in range(1, 65))
    if unequal["ours"]:
        raise SystemExit(f"ours: other bits in {unequal['ours']} of 256")
    return [f"{name}: other bits in {unequal[name]} of 256" for name in ("torch's", "ours")]


def cumsum(device: str) -> Sentences:
    place = opened(device)
    import torch

    values = drawn(torch, place, 64, 5000).requires_grad_()

    def both_ways() -> Any:
        return torch.autograd.grad(values.cumsum(-1).square().sum(), values)[0]

    first = both_ways()
    if not all(torch.equal(both_ways(), first) for _ in range(20)):
        raise SystemExit("cumsum of several rows has two answers: take it out of accelerators/determinism.py")
    return ["20 answers alike"]


def waits(device: str) -> Sentences:
    """A world of one worker: host time of `wait()` and of a wait with a limit."""
    place = opened(device)
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    backend = get_accelerator(device).backend
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    values, found = drawn(torch, place, 1 << 20), {}
    for name, wait in (("without a limit", ()), ("with a limit", (timedelta(seconds=600),))):
        seconds = []
        for _ in range(200):
            work = dist.all_reduce(values, async_op=True)
            begun = time.perf_counter()
            work.wait(*wait)
            seconds.append(time.perf_counter() - begun)
        found[name] = statistics.median(seconds) * 1e6
    return [f"{name}: median {microseconds:.0f} us" for name, microseconds in found.items()]


# Whole jobs


def job_values(islands: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    model, data = {"family": "qwen3_moe", "config": SMALL}, {"text": "stdlib", "sequence_length": 64}
    return {
        "job": "lent",
        "model": model,
        "data": data,
        "batch": {"lanes": 2},
        "steps": STEPS,
        "islands": islands,
        **changes,
    }


def island(name: str, accelerator: str, role: str = "both", **more: Any) -> dict[str, Any]:
    return {"name": name, "accelerator": accelerator, "role": role, **more}


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dougong-gpu-") as name:
        yield Path(name)


def dougong(*words: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "dougong", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit((ended.stderr or ended.stdout).strip().splitlines()[-1])


def losses(run: Path) -> list[tuple[int, float]]:
    from dougong.records.directory import RunDir

    return [(row["step"], row["loss"]) for row in RunDir(run).latest_metrics()]


def train(place: Path, name: str, values: dict[str, Any]) -> list[tuple[int, float]]:
    (place / f"{name}.yaml").write_text(yaml.safe_dump(values))
    dougong("run", str(place / f"{name}.yaml"), "--no-ray", "--run-dir", str(place / name))
    return losses(place / name)


def job(device: str) -> Sentences:
    sentences = []
    with folder() as place:
        for precision in ("float32",) if is_small(device) else ("float32", "bfloat16"):
            values = job_values([island("here", device)], precision=precision)
            due = train(place, f"{precision}-due", values)
            killed = train(place, f"{precision}-killed", {**values, "drill": [{"at_step": 4, "kill": "here/0"}]})
            shorter = {**values, "steps": 4, "schedule": {"decay_steps": STEPS}}
            train(place, f"{precision}-resumed", shorter)
            dougong("resume", str(place / f"{precision}-resumed"), "--no-ray", "-o", f"steps={STEPS}")
            full = train(place, f"{precision}-full", {**values, "schedule": {"decay_steps": STEPS}})
            if killed != due or losses(place / f"{precision}-resumed") != full:
                raise SystemExit(f"{precision}: a recovery or a resume has other bits")
            sentences.append(f"{precision}: killed, and resumed: the same bits, last loss {due[-1][1]:.4f}")
    return sentences


def islands(device: str) -> Sentences:
    sentences = []
    with folder() as place:
        for roles in (("attention", "experts"), ("experts", "attention")):
            made = [island("device", device, roles[0]), island("host", "cpu", roles[1])]
            found = train(place, roles[0], job_values(made, numerics="bounded"))
            sentences.append(
                f"{roles[0]} on {device}, {roles[1]} on cpu: {len(found)} steps, last loss {found[-1][1]:.4f}"
            )
    return sentences


def shared(device: str) -> Sentences:
    with folder() as place:
        alone = train(place, "alone", job_values([island("here", device)]))
        both = train(place, "both", job_values([island("here", device, workers=2, devices="shared")]))
    if alone != both:
        raise SystemExit("two workers on one device have other bits than one")
    return ["two workers on one device: the bits of one"]


def syncs(device: str) -> Sentences:
    """Where the host waits in a step of a small job, by torch's own warnings."""
    place = opened(device)
    import warnings

    import torch

    from dougong.parallel.comm.world import World
    from tests.jobs import make_job, make_rig, plan_for

    job = make_job()
    rig = make_rig(job, plan_for(job), World.alone(place))

    def step(number: int) -> None:
        rig.stepper.run(number, rig.forwards(number))

    step(1)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        step(2)
    places = Counter(f"{Path(one.filename).name}:{one.lineno}" for one in told)
    return [f"{sum(places.values())} waits in a step", *(f"{place} {count}" for place, count in places.most_common(20))]


def price(device: str) -> Sentences:
    with folder() as place:
        seconds = {}
        for determinism in ("off", "layout"):
            values = job_values([island("here", device)], determinism=determinism, steps=12)
            train(place, determinism, values)
            from dougong.records.directory import RunDir

            rows_of = [row["step_s"] for row in RunDir(place / determinism).latest_metrics()]
            seconds[determinism] = statistics.median(rows_of[4:])
    return [f"layout over off: {seconds['layout'] / seconds['off']:.3f} (median of 8 steps each)"]


THICK = {
    "vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "num_experts": 32, "num_experts_per_tok": 4,
    "moe_intermediate_size": 512, "intermediate_size": 3072,
}  # fmt: skip
"""383 million parameters, 302 of them the experts'."""


def memory(device: str) -> Sentences:
    """A job of which all is kept, of which layers run again, and whose dense tensors come and go."""
    config = SMALL | {"vocab_size": 512} if is_small(device) else THICK
    sentences, bits = [], {}
    for recompute, dense in itertools.product(("none", "layers"), ("copy", "shard")):
        changes = {
            "family": "qwen3_moe", "model": {"family": "qwen3_moe", "config": config}, "precision": "bfloat16",
            "batch": {"lanes": 1, "microbatches": 2, "microbatch_size": 2}, "pipeline": "zebra",
            "data": {"text": "stdlib", "sequence_length": 64 if is_small(device) else 1024},
            "islands": [island("here", device)], "recompute": recompute, "dense": dense,
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.device_peaks", device, json.dumps(changes)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(ended.stderr.strip().splitlines()[-1])
        found = json.loads(ended.stdout.splitlines()[-1])
        name = f"recompute {recompute}, dense {dense}"
        bits[name] = found["losses"]
        if found["measured"]:
            over, giga = found["measured"] / found["planned"], found["measured"] / 1e9
            kept = found["between"] / found["always"]
            sentences.append(f"{name}: at most {giga:.2f} GB, {over:.3f} of the plan; between steps {kept:.3f} of it")
    if len({tuple(losses) for losses in bits.values()}) > 1:
        raise SystemExit(f"other bits: {bits}")
    return [*sentences, f"the same losses in {len(bits)} ways"]


def audit(device: str) -> Sentences:
    changes = {"fault": {"audit": 2}}
    two = [island("here", device, workers=2, devices="shared")]
    with folder() as place:
        plain = train(place, "plain", job_values(two))
        audited = train(place, "audited", job_values(two, **changes))
    if plain != audited:
        raise SystemExit("audited steps have other bits")
    return [f"{STEPS // 2} of {STEPS} steps computed again by the other worker: nobody accused, the same bits"]


def saves(device: str) -> Sentences:
    """One worker that saves before every second step, 8192 tokens a step."""
    place = opened(device)
    from benchmarks.saving import job_of, spread
    from benchmarks.step import timed
    from dougong.checkpoint.part import PartWriter
    from dougong.checkpoint.snapshot import Saver
    from dougong.deadlines import DEADLINES
    from dougong.parallel.comm.world import World
    from dougong.training.state import state_of
    from tests.jobs import make_rig

    size = "small" if is_small(device) else "wide"
    rig = make_rig(job_of(size, 1, 8192), world=World.alone(place))

    def state() -> Any:
        return state_of(rig.replica, rig.stepper.optimizer)

    held, alone, beside = [], [], []
    with folder() as where:
        names = rig.stepper.parts.share.blueprint.names
        saver = Saver(
            where, PartWriter("w/0", 0, 1), lambda part: None, lambda step, why: sys.exit(why), names, DEADLINES
        )
        saver.reserve(state())
        steps = itertools.count(1)

        def step() -> None:
            number = next(steps)
            rig.stepper.run(number, rig.forwards(number))

        step()
        for number in range(5):
            alone.append(timed(step, place))
            held.append(timed(lambda number=number: saver.stage(2 * number + 2, state()), place))
            beside.append(timed(step, place))
            saver.wait()
    shares = [stall / statistics.median(alone) for stall in held]
    over = [after / before for before, after in zip(alone, beside, strict=True)]
    return [
        f"a step {statistics.median(alone):.3f} s, held up {1000 * statistics.median(held):.1f} ms",
        f"{spread(shares, 100)} % of a step",
        f"the step beside the writing over the one before: {spread(over)}",
    ]


def step(device: str) -> Sentences:
    """Of one worker, beside transformers' own model with its fastest experts, in turns."""
    place = opened(device)
    from benchmarks.step import in_words, make_contestants, take_turns, tokens_of_step

    size = "small" if is_small(device) else "wide"
    with folder() as scratch:
        contestants = make_contestants(size, "bfloat16", "grouped_mm", place, scratch)
        taken = {
            name: [one.clock for one in steps]
            for name, steps in take_turns(contestants, 2 if is_small(device) else 15, place).items()
        }
    ours, tokens = taken["dougong"], tokens_of_step(size)
    sentences = [f"{name}: {tokens / statistics.median(times):.0f} tokens/s" for name, times in taken.items()]
    return [
        *sentences,
        f"tokens/s over the plain loop's: {in_words(taken['plain loop'], ours)}",
        f"layout over off: {in_words(ours, taken['dougong, determinism off'])}",
        f"ledger over none: {in_words(taken['dougong with a ledger'], ours)}",
    ]


ROWS: Sequence[Callable[[str], Sentences]] = (
    versions, attention, adamw, linear, rows, cumsum, waits, job, islands, shared, syncs, price, memory, audit, saves,
    step,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    by_name = {row.__name__: row for row in ROWS}
    parser.add_argument("row", choices=by_name)
    parser.add_argument("--accelerator", default="cuda")
    options = parser.parse_args()
    print(json.dumps(by_name[options.row](options.accelerator)))


if __name__ == "__main__":
    main()
