"""`dougong check` and `dougong schema`: what can be said of a job file without starting it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dougong.cli.options import JobFile, Overrides
from dougong.control.cache_place import REMEDY, cache_place, why_unwritable
from dougong.deepspeed.adam_build import adam_remarks
from dougong.job.fault_rules import doubts
from dougong.job.reference import json_schema
from dougong.launcher.agent.facts import variable_remarks
from dougong.tools.job_check import folder_notes, load_whole_job, unchecked_model


def check(
    file: JobFile,
    override: Overrides = None,
    show: Annotated[
        bool, typer.Option("--print", help="Print the job in full, with the origin of each value.")
    ] = False,
) -> None:
    """Check a job file and say every mistake at once, with its line. Starts nothing.

    The model is looked at as well: its family and keys, its folder, its tokenizer. What is
    allowed and may not be meant is a warning, also of variables in this shell's environment.

    Exit status 0: the file is good; 2: it is not.

    Example:  [bold]dougong check job.yaml -o batch.lanes=8 --print[/bold]
    """
    resolved = load_whole_job(file, override or [])
    if show:
        sys.stdout.write(resolved.to_yaml(comments=True))
    else:
        told = adam_remarks(resolved.job) + variable_remarks(resolved.job)
        print(f"{file}: good: {resolved.summary()}")
        unwritable = why_unwritable(cache_place(resolved.job.cache))
        on_cache = [f"{unwritable}; {REMEDY}"] if unwritable else []
        for text in (*doubts(resolved.job), *told.warnings, *on_cache):
            print(f"warning: {text}")
        unchecked = unchecked_model()
        if unchecked:
            print(f"note: {unchecked}")
        for text in (*folder_notes(resolved.job), *told.notes):
            print(f"note: {text}")


def schema() -> None:
    """Print the job file's JSON Schema, for editors that complete and check YAML.

    Example:  [bold]dougong schema > job.schema.json[/bold]
    """
    sys.stdout.write(json_schema())
