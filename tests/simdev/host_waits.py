"""Where the host waits for the device in one step of training, by place and count, as JSON.

SIMDEV_VENDOR=sima python -m tests.simdev.host_waits FAMILY [RECOMPUTE]
"""

from __future__ import annotations

import json
import sys

import torch
from dougong.parallel.comm.world import World
from dougong.training.build import StepOptions, build_model, rebuild
from dougong.training.state import open_start
from tests.jobs import VOCAB, Rig, make_job, plan_for
from tests.simdev import plugin

DEVICE = torch.device(plugin.VENDOR, 0)


def main(family: str, recompute: str = "none") -> None:
    torch.accelerator.set_device_index(0)
    job = make_job(family, recompute=recompute)
    plan, world = plan_for(job), World.alone(DEVICE)
    blueprint = build_model(job, VOCAB, DEVICE, iter(()))
    with open_start(job, blueprint.names, None) as start:
        stepper = rebuild(blueprint, plan, world, start, StepOptions())
    rig = Rig(job, plan, stepper.parts.share.replica, stepper)
    rig.stepper.run(1, rig.forwards(1))
    forwards = rig.forwards(2)
    with plugin.HostWaits() as waits:
        rig.stepper.run(2, forwards)
    print(json.dumps(dict(sorted(waits.places.items()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
