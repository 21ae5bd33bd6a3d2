"""Even load: formulas against plain loops, gradients against the engine, the same bits on every layout, the effect."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.job.parts.router import Router
from dougong.job.schema import Job
from dougong.models.sites import find_sites
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.segments.flight import RealTokens
from dougong.training.load_balance import Load, bias_steps, global_loss, sequence_loss
from tests.jobs import make_job, make_rig, plan_for, tokens
from tests.parallel.test_layouts import run_layout, state_digests
from tests.processes import run_workers
from tests.reference import reference_model
from tests.training.running import Order, digests, run, token_file
from torch import Tensor

WIDE = {"lanes": 3, "microbatches": 2, "microbatch_size": 2}


def scores_of(num_tokens: int, num_experts: int, seed: int = 1) -> Tensor:
    """As a sigmoid makes them: a token's do not add up to one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_tokens, num_experts, generator=generator, dtype=torch.float64)


def sequence_loss_by_hand(scores: list[list[float]], num_choices: int, num_sequences: int) -> float:
    """DeepSeek-V3, equations 17 to 20, written out sequence by sequence, expert by expert, token by token."""
    length, num_experts = len(scores) // num_sequences, len(scores[0])
    total = 0.0
    for sequence in range(num_sequences):
        tokens = range(sequence * length, (sequence + 1) * length)
        for i in range(num_experts):
            chosen = 0
            for t in tokens:
                order = sorted(range(num_experts), key=lambda j, t=t: (-scores[t][j], j))  # type: ignore[misc]
                chosen += i in order[:num_choices]  # equation 18: of the scores, and no bias
            f = num_experts / (num_choices * length) * chosen
            p = sum(scores[t][i] / sum(scores[t]) for t in tokens) / length  # equations 19 and 20
            total += f * p  # equation 17
    return total / num_sequences


@pytest.mark.parametrize(("num_sequences", "num_choices"), [(3, 2), (1, 1), (5, 4)])
def test_the_sequence_loss_is_the_papers(num_sequences: int, num_choices: int) -> None:
    scores = scores_of(num_sequences * 5, 4)
    by_hand = sequence_loss_by_hand(scores.tolist(), num_choices, num_sequences)
    assert float(sequence_loss(scores, num_choices, num_sequences)) == pytest.approx(by_hand, rel=1e-12)


def test_the_sequence_loss_is_one_where_even_and_takes_the_lower_index_of_equals() -> None:
    turns = torch.eye(3, dtype=torch.float64).repeat(2, 1) + 1.0
    assert float(sequence_loss(turns, 1, 2)) == pytest.approx(1.0)
    equal = torch.ones(4, 3, dtype=torch.float64)
    assert float(sequence_loss(equal, 1, 2)) == pytest.approx(1.0)
    tilted = equal * torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    assert float(sequence_loss(tilted, 1, 2)) == pytest.approx(3 * 0.4), "all tokens to the first expert"


def test_only_the_scores_of_the_sequence_loss_have_a_gradient() -> None:
    """f_i is a count: the gradient is that of sum_i f_i P_i with fixed f."""
    scores = scores_of(6, 4).requires_grad_()
    sequence_loss(scores, 2, 2).backward()
    twin = scores.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for part in twin.chunk(2):
        f = torch.zeros(4, dtype=torch.float64)
        for row in part.detach():
            f[row.argsort(descending=True)[:2]] += 4 / (2 * 3)
        total = total + (f * (part / part.sum(1, keepdim=True)).mean(0)).sum() / 2
    total.backward()
    torch.testing.assert_close(scores.grad, twin.grad, rtol=1e-12, atol=0)


def global_loss_by_hand(scores: list[list[float]], counts: list[int]) -> float:
    """Qwen, N_E sum f_i p_i: f_i the frequency with which expert i was chosen, p_i its mean normalised score."""
    total = 0.0
    for i, count in enumerate(counts):
        p = sum(row[i] / sum(row) for row in scores) / len(scores)
        total += count / sum(counts) * p
    return len(counts) * total


def test_the_global_loss_is_the_papers() -> None:
    scores = scores_of(7, 3, seed=2)
    for counts in ([30, 10, 0], [1, 1, 1], [0, 0, 9]):
        by_hand = global_loss_by_hand(scores.tolist(), counts)
        assert float(global_loss(scores, torch.tensor(counts))) == pytest.approx(by_hand, rel=1e-12)
    assert float(global_loss(scores, torch.tensor([5, 5, 5]))) == pytest.approx(1.0)
    softmax = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    loss = global_loss(softmax, torch.tensor([30, 10, 0]))
    assert float(loss) == pytest.approx(3 * (0.75 * 0.4 + 0.25 * 0.15 + 0.0))


def bias_steps_by_hand(counts: list[int], rate: float, target: float | None, num_choices: int) -> list[float]:
    """DeepSeek-V3 (2.1.2): raised by the rate where expert i is below the mean, lowered where above. LongCat-Flash:
    rate * (K_e / K / N - T_i / (K T_all)), where K T_all is the number of all slots."""
    *computing, idle = counts
    steps = []
    for count in computing:
        mean = sum(computing) / len(computing)
        if target is None:
            steps.append(rate * ((count < mean) - (count > mean)))
        else:
            steps.append(rate * (target / num_choices / len(computing) - count / (sum(computing) + idle)))
    return steps


@pytest.mark.parametrize("target", [None, 1.5])
def test_the_steps_of_a_bias_are_the_papers(target: float | None) -> None:
    generator = torch.Generator().manual_seed(3)
    settings = Router(bias_rate=1e-3, computing_choices=target)
    for _ in range(20):
        counts = torch.randint(0, 9, (6,), generator=generator)
        if target is None:
            counts[-1] = 0
        by_hand = bias_steps_by_hand(counts.tolist(), 1e-3, target, 2)
        assert bias_steps(counts, 5, settings, 2).tolist() == pytest.approx(by_hand, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "counts", "expected"),
    [
        (Router(bias_rate=0.5), [7, 5, 3, 5, 0], [-0.5, 0.0, 0.5, 0.0]),
        (Router(bias_rate=0.5), [0, 0, 0, 0, 0], [0.0] * 4),
        (Router(bias_rate=0.5), [2, 2, 2, 3, 0], [0.5, 0.5, 0.5, -0.5]),  # the mean is no whole number
        # LongCat-Flash: 1.5 of 2 choices over 4 experts is 3/16 of the slots for each
        (Router(bias_rate=1.0, computing_choices=1.5), [3, 3, 3, 3, 4], [0.0] * 4),
        (Router(bias_rate=1.0, computing_choices=1.5), [8, 0, 0, 0, 8], [3 / 16 - 0.5, 3 / 16, 3 / 16, 3 / 16]),
    ],
)
def test_biases_move_towards_an_even_load(settings: Router, counts: list[int], expected: list[float]) -> None:
    assert bias_steps(torch.tensor(counts), 4, settings, 2).tolist() == expected


def test_a_row_tells_of_the_busiest_expert() -> None:
    load = Load(torch.tensor([[4, 2, 3, 9], [1, 1, 1, 0], [0, 0, 0, 5]]))
    row = {"max_over_mean": [1.3333, 1.0, 0.0], "worst": 1.3333}
    assert load.row(whole=False) == {"load": row}
    assert load.row(whole=True)["load"]["counts"] == [[4, 2, 3, 9], [1, 1, 1, 0], [0, 0, 0, 5]]
    # Two choices a token: the two busiest of each site took these parts.
    shares = Load(torch.tensor([[5, 1, 3, 1], [10, 0, 0, 0]]), num_tokens=5).row(whole=False)["load"]["busiest_share"]
    assert shares == [0.8889, 1.0]
    assert Load(load.counts, 0.25).row(whole=False)["balance_loss"] == 0.25


BIAS, LARGE_BIAS = "e_score_correction_bias", 10.0
"""Where there is one, every token goes to the first expert: the choice is then not that of the scores."""


class Plain:
    """The whole model by the engine, its routers watched by hooks of our own."""

    def __init__(self, job: Job) -> None:
        self.job, self.model = job, reference_model(job)
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        self.sites = [s.name.rpartition(".")[0] for s in find_sites(self.model)]
        for name in self.sites:
            gate: Any = self.model.get_submodule(f"{name}.gate")
            if hasattr(gate, BIAS):
                getattr(gate, BIAS)[0] = LARGE_BIAS
            gate.register_forward_hook(functools.partial(self._keep, name))

    def _keep(self, name: str, module: Any, arguments: Any, output: Any) -> None:
        self.seen[name] = output[0], output[2]

    def step(self) -> tuple[float, list[list[int]]]:
        """Gradients of one step's mean loss, balance included; the mean balance loss and the counts by site."""
        job, router = self.job, self.job.router
        totals = torch.zeros(len(self.sites), 8, dtype=torch.float64)
        told, scale = 0.0, 1.0 / (job.batch.lanes * job.batch.microbatches)
        for microbatch in range(job.batch.microbatches):
            held = []
            for lane in range(job.batch.lanes):
                ids = tokens(job, 1, lane, microbatch)
                loss = self.model(input_ids=ids, labels=ids, use_cache=False).loss  # type: ignore[operator]
                held.append((loss, dict(self.seen)))
                for number, name in enumerate(self.sites):
                    totals[number] += torch.bincount(self.seen[name][1].reshape(-1), minlength=8)
            for loss, seen in held:
                extra = sum(self._one(totals[i], *seen[n]) for i, n in enumerate(self.sites))
                extra = extra * float(router.sequence_loss or router.global_loss or 0.0)
                ((loss + extra) * scale).backward()
                told += float(extra.detach()) * scale
        return told, totals.to(torch.int64).tolist()

    def _one(self, totals: Tensor, logits: Tensor, index: Tensor) -> Any:
        family = self.job.model.family
        scores = logits.double().softmax(-1) if family == "qwen3_moe" else logits.double().sigmoid()
        scores = scores / scores.sum(-1, keepdim=True)
        if self.job.router.global_loss:
            return 8 * (totals / totals.sum() * scores.mean(0)).sum()
        total: Any = 0.0
        for sequence in scores.chunk(2):
            highest = sequence.detach().argsort(-1, descending=True)[:, :2]
            f = torch.bincount(highest.reshape(-1), minlength=8) / highest.numel()
            total = total + 8 * (f * sequence.mean(0)).sum() / 2
        return total


@pytest.mark.parametrize("loss", ["sequence_loss", "global_loss"])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_losses_and_gradients_are_those_of_the_engine_on_the_whole_model(family: str, loss: str) -> None:
    """To 1e-6 of a tensor's norm. Gradients are seen through the weights: with a large eps, AdamW's first step is
    nearly the gradient itself. The model's own loss stays what it is without balance."""
    adamw = {"lr": 1e-2, "eps": 1.0, "clip_norm": None}
    changes: dict[str, Any] = {"batch": WIDE, "optimizer": adamw, "schedule": {"name": "constant"}}
    job = make_job(family, router={loss: 1.0}, **changes)
    rig, bare = make_rig(job), make_rig(make_job(family, **changes))
    for one in (rig, bare):
        for name, tensor in one.replica.dense.items():
            if name.endswith(BIAS):
                tensor[0] = LARGE_BIAS
        one.note_state()
    initial = {n: t.clone() for n, t in rig.replica.masters.items()}
    result, without = rig.stepper.run(1, rig.forwards(1)), bare.stepper.run(1, bare.forwards(1))
    plain = Plain(job)
    told, counts = plain.step()
    assert result.loss == without.loss and bare.load.loss is None
    assert rig.load.loss == pytest.approx(told, rel=1e-6)
    assert rig.load.counts[:, :-1].tolist() == counts == bare.load.counts[:, :-1].tolist()
    gradients = {n: p.grad for n, p in plain.model.named_parameters() if p.grad is not None}
    dense = [n for n in rig.replica.trainable if n in gradients]
    moved = 0
    for name in dense:
        decay = 1 - 1e-2 * 0.1 if initial[name].dim() > 1 else 1.0
        expected = initial[name] * decay - 1e-2 * gradients[name] / (gradients[name].abs() + 1.0)
        step = (expected - initial[name]).norm()
        assert float((rig.replica.masters[name] - expected).norm()) <= 1e-6 * float(initial[name].norm() + step), name
        moved += float((bare.replica.masters[name] - expected).norm()) > 1e-2 * float(step)
    assert len(dense) > 20 and moved > len(dense) / 2, "without the loss they go elsewhere"


CASES: dict[str, dict[str, Any]] = {
    "deepseek_v3 bias and sequence": {"router": {"bias_rate": 0.01, "sequence_loss": 0.01}},
    "deepseek_v3 bias and global": {"router": {"bias_rate": 0.01, "global_loss": 0.1}},
    "minimax_m2 bias and global": {"router": {"bias_rate": 0.01, "global_loss": 0.1}, "precision": "bfloat16"},
    "longcat_flash bias": {"router": {"bias_rate": 0.01, "computing_choices": 1.5}, "precision": "bfloat16"},
}


AT_LENGTH = ("deepseek_v3 bias and global",)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in AT_LENGTH else ()) for case in CASES]
)
def test_balanced_training_has_the_same_bits_on_any_layout(case: str) -> None:
    """Also where a bias is kept in half precision by all but its owner."""
    job = make_job(case.split()[0], batch=WIDE, **CASES[case])
    reference = run_layout(job, "B")
    for roles in ("BB", "BBB", "AEE") if "deepseek" in case else ("ABE",):
        assert run_layout(job, roles) == reference, roles
    unbalanced = run_layout(job.model_copy(update={"router": Router()}), "B")
    names = [n for n in reference[1] if "bias" in n and "correction" in n]
    assert names and all(reference[1][n] != unbalanced[1][n] for n in names)


def local_counts_only(world: World, plan: Plan, job: Job, steps: int) -> Any:
    """Training by workers that do not tell each other what they counted."""
    world.add_counts = lambda counts, attention_only=False: counts  # type: ignore[method-assign]
    return state_digests(world, plan, job, steps)


@pytest.mark.parametrize("router", [{"global_loss": 0.1}, {"bias_rate": 0.01}], ids=["global loss", "bias"])
def test_counts_of_one_worker_alone_give_other_bits(router: dict[str, Any]) -> None:
    """Negative control of the test above."""
    job = make_job("deepseek_v3", batch=WIDE, router=router)
    _, whole = run_layout(job, "B")
    results = run_workers(local_counts_only, plan_for(job, "BBB"), job, 3)
    local = {n: d for _, digests in results for n, d in digests.items()}
    assert local.keys() == whole.keys() and local != whole


@pytest.mark.parametrize(("family", "precision"), [("deepseek_v3", "float32"), ("minimax_m2", "bfloat16")])
def test_a_balanced_run_that_is_stopped_and_resumed_elsewhere_has_the_same_bits(
    tmp_path: Path, family: str, precision: str
) -> None:
    """minimax_m2 computes with a bias in half precision: it goes on from the one in the checkpoint, not from that."""
    job = make_job(
        family,
        precision=precision,
        data={"tokens": str(token_file(tmp_path)), "sequence_length": 16},
        batch={"lanes": 3, "microbatches": 1, "microbatch_size": 1},
        steps=4,
        checkpoint={"every": 2},
        router={"bias_rate": 0.01, "global_loss": 0.1},
    )
    whole = run(Order(job, "B", tmp_path / "whole"))
    resumed = run(Order(job, "AEB", tmp_path / "resumed", whole.committed[2], generation=2))
    assert digests(resumed.committed[4]) == digests(whole.committed[4])
    for step in (3, 4):
        for key in ("load", "balance_loss"):
            assert resumed.rows[step][key] == whole.rows[step][key]
    assert ["counts" in whole.rows[s]["load"] for s in (1, 2, 3, 4)] == [False, True, False, True]
    name = next(k for k in digests(whole.committed[4]) if "correction_bias" in k[1])
    assert digests(whole.committed[2])[name] != digests(whole.committed[4])[name]


def test_every_step_counts_anew() -> None:
    job = make_job("longcat_flash", router={"bias_rate": 0.01, "computing_choices": 1.5})
    rig = make_rig(job)
    loads = rig.loads(2)
    slots = 2 * 2 * 2 * 16 * 2  # lanes, micro-batches, sequences, tokens, choices
    assert [load.counts.sum(1).tolist() for load in loads] == [[slots, slots]] * 2
    assert all(load.counts[:, -1].min() > 0 for load in loads), "some go to experts that compute nothing"


def run_skewed(router: dict[str, Any]) -> tuple[float, float]:
    """Thirty steps from routers that favour two of eight experts, whose rows are eight times as long as the others':
    the busiest expert's load over the mean, in the first ten steps together and in the last ten."""
    batch = {"lanes": 2, "microbatches": 2, "microbatch_size": 4}
    rig = make_rig(make_job("deepseek_v3", batch=batch, optimizer={"lr": 1e-4}, router=router, steps=30))
    with torch.no_grad():
        for name, tensor in rig.replica.dense.items():
            if name.endswith("gate.weight"):
                tensor[:2] *= 8.0
    rig.note_state()
    counts = [load.counts for load in rig.loads(30)]
    first, last = (Load(sum(part)).row(False)["load"]["worst"] for part in (counts[:10], counts[-10:]))
    return first, last


def test_the_bias_evens_out_a_skewed_load() -> None:
    balanced, bare = run_skewed({"bias_rate": 0.01}), run_skewed({})
    assert bare[0] > 1.7 and bare[1] > 1.6, bare
    assert balanced[1] < 1.25 < 1.4 < balanced[0], balanced


def test_sites_that_choose_by_token_id_are_left_alone() -> None:
    """deepseek_v4's first layer here: its choice cannot be moved, so that no loss is taken of it."""
    rig = make_rig(make_job("deepseek_v4", router={"bias_rate": 0.01, "global_loss": 1.0}))
    rig.run(1)
    assert len(rig.load.counts) == 3 and 1.8 < (rig.load.loss or 0.0) < 2.4, "two layers', each near 1 where even"
    biases = {n: t for n, t in rig.replica.masters.items() if n.endswith("correction_bias")}
    assert sorted(biases) == [f"model.layers.{i}.mlp.gate.e_score_correction_bias" for i in (1, 2)]
    for bias in biases.values():
        assert set(bias.abs().tolist()) <= {0.0, float(torch.tensor(0.01))} and bias.any()


def test_padding_is_left_out_of_the_sequence_loss() -> None:
    """It is that of sequences cut to what is real, each by its own length."""
    scores = scores_of(12, 4)
    real = torch.tensor([[True] * 4 + [False] * 2, [True, True, False, True, False, False]])
    alone = [sequence_loss_by_hand(scores[6 * n :][:6][real[n]].tolist(), 2, 1) for n in range(2)]
    found = sequence_loss(scores, 2, 2, real.reshape(-1))
    assert float(found) == pytest.approx(sum(alone) / 2, rel=1e-12)
    whole = sequence_loss(scores, 2, 2, torch.ones(12, dtype=torch.bool))
    assert float(whole) == pytest.approx(float(sequence_loss(scores, 2, 2)), rel=1e-12)


def test_padding_is_left_out_of_the_global_loss_and_gets_no_gradient() -> None:
    scores = scores_of(7, 3, seed=2).requires_grad_()
    mask = torch.tensor([True, False, True, True, False, True, True])
    found = global_loss(scores, torch.tensor([30, 10, 0]), RealTokens(mask, 5))
    by_hand = global_loss_by_hand(scores[mask].tolist(), [30, 10, 0])
    assert float(found.detach()) == pytest.approx(by_hand, rel=1e-12)
    found.backward()
    assert scores.grad is not None and (scores.grad[~mask] == 0).all() and (scores.grad[mask] != 0).all()
