"""`python -m tests.launcher.drive run|resume|start ...`: the command line, with toy entries for training."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from dougong.errors import DougongError
from dougong.job.load import load_job
from dougong.launcher.backends.ray_choice import OWN_RAY, choose_ray, surroundings
from dougong.launcher.controller.config import TRAINING, EntryPoints
from dougong.launcher.run import Options, ResumeRequest, resume_run, start_run
from dougong.launcher.start import go_on, goes_on
from dougong.launcher.supervised import resume_beside, run_beside

TOY = EntryPoints(
    "tests.launcher.entries:train",
    "tests.launcher.entries:inspect",
    ("tests.launcher.entries",),
    "tests.launcher.entries:fingerprint",
)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("run", "resume", "start"))
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--job", type=Path)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--address")
    parser.add_argument("-o", action="append", default=[])
    parser.add_argument("--entry", default=TOY.train)
    parser.add_argument("--beside", action="store_true", help="the controller in a child, as the command line has it")
    parser.add_argument("--train", action="store_true", help="really train")
    parser.add_argument("--preload", default=TOY.preload[0])
    given = parser.parse_args()
    entries = EntryPoints(given.entry, TOY.inspect, (given.preload,), TOY.fingerprint)
    if given.train:
        entries = TRAINING if given.entry == TOY.train else replace(TRAINING, train=given.entry)
    try:
        choice = choose_ray(given.address, surroundings()) if given.address is not None else OWN_RAY
        options = Options(choice, given.ray or given.address is not None, entries)
        if given.command == "resume" and given.beside:
            return resume_beside(given.run_dir, given.o, options, ResumeRequest())
        if given.command == "resume":
            return resume_run(given.run_dir, given.o, options)
        job = load_job(given.job, given.o)
        if given.command == "start" and goes_on(given.run_dir):
            return go_on(job, given.run_dir, options, takes_over=False) or 0
        return (run_beside if given.beside else start_run)(job, given.run_dir, options)
    except DougongError as error:
        print(error, file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
