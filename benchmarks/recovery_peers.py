"""The peers of recovery.py: the same small loop under others' fault tolerance. Each function is a program of its own.

    python benchmarks/recovery_peers.py torchft|torchrun|lm_resiliency FOLDER ...

Every process writes a line into FOLDER for each step that its group has done together: seconds of the monotonic clock,
step, process. A step takes `STEP_S` of sleep beside its arithmetic.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

STEP_S = 0.05
SIZE = 64


class Line:
    """Where this process tells its steps."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / f"{os.getpid()}.steps").open("a", buffering=1)

    def done(self, step: int) -> None:
        self._file.write(f"{time.monotonic():.4f} {step} {os.getpid()}\n")


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, 4 * SIZE), nn.ReLU(), nn.Linear(4 * SIZE, SIZE))


def loss_of(model: Any, step: int) -> torch.Tensor:
    time.sleep(STEP_S)
    generator = torch.Generator().manual_seed(step)
    return (model(torch.randn(8, SIZE, generator=generator)) ** 2).mean()


def torchft(folder: Path, name: str, lighthouse: str) -> None:
    """One replica group of one process; tuned: a second for a collective, a quorum that waits for nobody."""
    import torch.distributed as dist
    from torchft import Manager, Optimizer, ProcessGroupGloo

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    model, line = make_model(), Line(folder)
    optimizer = torch.optim.AdamW(model.parameters())

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=1)),
        min_replica_size=1,
        load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        replica_id=f"group-{name}-",
        timeout=timedelta(seconds=2),
        store_addr="127.0.0.1",
        store_port=store.port,
        rank=0,
        world_size=1,
        lighthouse_addr=lighthouse,
    )
    managed = Optimizer(manager, optimizer)
    while True:
        managed.zero_grad()
        loss_of(model, manager.current_step()).backward()
        # Its DDP wrapper (0.2.0) ends the process by an assertion when a peer is lost.
        gradients = torch.cat(
            [parameter.grad.view(-1) for parameter in model.parameters() if parameter.grad is not None]
        )
        manager.allreduce(gradients).wait()
        managed.step()
        line.done(manager.current_step())


def torchrun(folder: Path, resilient: bool) -> None:
    """One rank of a group that torchrun starts anew as a whole; `resilient`: with LM Resiliency's copies in memory."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", timeout=timedelta(seconds=10))
    model, line = DistributedDataParallel(make_model()), Line(folder)
    optimizer = torch.optim.AdamW(model.parameters())
    first = protect(model, optimizer, folder) if resilient else load_plain(model, optimizer, folder)
    for step in range(first, 10**6):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        dist.barrier()
        line.done(step)
        if not resilient and step % 10 == 0 and dist.get_rank() == 0:
            save_plain(model, optimizer, folder, step)


def launch_lm_resiliency(words: list[str]) -> None:
    """torchrun with its rendezvous, which it offers by an entry point that torch 2.13 calls in another way."""
    from lm_resiliency.integrations.torchrun import create_rendezvous_handler
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.run import main as run

    rendezvous_handler_registry.register("lm_resiliency", create_rendezvous_handler)
    run(words)


def protect(model: Any, optimizer: Any, folder: Path) -> int:
    """GEMINI's checkpoints in memory, every step; the step that comes next."""
    import torch.distributed as dist
    from lm_resiliency import InMemoryCkptConfig, enable_resiliency

    checkpoint = InMemoryCkptConfig(
        disk_flush_interval=10, disk_folder=str(folder / "copies"), run_id="bench", pin_memory=False
    )
    # Its own second group is NCCL's, which CPUs have none of.
    handle = enable_resiliency(
        model, optimizer, interval=1, enable_detection=False, checkpoint=checkpoint, device=torch.device("cpu"),
        group=dist.group.WORLD, nccl_group=dist.group.WORLD,
    )  # fmt: skip
    return int(handle.step_count) + 1


def save_plain(model: Any, optimizer: Any, folder: Path, step: int) -> None:
    part = folder / "checkpoint.part"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.rename(folder / "checkpoint")


def load_plain(model: Any, optimizer: Any, folder: Path) -> int:
    if not (folder / "checkpoint").exists():
        return 1
    state = torch.load(folder / "checkpoint", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]) + 1


def ray_train(folder: Path, workers: int) -> None:
    """Ray Train v2: the whole group is started anew from the checkpoint that was reported last."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
    ray.init(address="local", num_cpus=workers + 1, include_dashboard=False, log_to_driver=False)
    TorchTrainer(
        ray_loop,
        train_loop_config={"folder": str(folder)},
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=-1)),
        torch_config=TorchConfig(backend="gloo", timeout_s=10),
    ).fit()


def ray_loop(config: dict[str, Any]) -> None:
    """One worker of it."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    folder = Path(config["folder"])
    model, line = DistributedDataParallel(make_model()), Line(folder)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(load_plain(model, optimizer, folder), 10**6):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        dist.barrier()
        line.done(step)
        if step % 10 == 0 and dist.get_rank() == 0:
            save_plain(model, optimizer, folder, step)


def main() -> None:
    program, folder, *more = sys.argv[1:]
    torch.set_num_threads(1)
    if program == "launch_lm_resiliency":
        launch_lm_resiliency([folder, *more])
    elif program == "torchft":
        torchft(Path(folder), *more)
    elif program == "ray_train":
        ray_train(Path(folder), int(more[0]))
    else:
        torchrun(Path(folder), resilient=program == "lm_resiliency")


if __name__ == "__main__":
    main()
