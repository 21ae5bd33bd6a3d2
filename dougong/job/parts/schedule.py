"""The keys of `schedule`: the learning rate over steps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictFloat

from dougong.job.section import Count, Positive, Section, logical


class Schedule(Section):
    """Learning rate over steps: linear warm-up, then the named decay to `final_fraction` of the
    peak."""

    name: Literal["cosine", "linear", "constant"] = logical(
        "cosine", "the decay after warm-up; constant: none"
    )
    warmup_steps: Count = logical(0, "steps of linear warm-up, at most `steps` and `decay_steps`")
    final_fraction: Annotated[StrictFloat, Field(ge=0, le=1)] = logical(
        0.1, "the rate at the decay's end as a part of the peak (cosine and linear)"
    )
    decay_steps: Positive | None = logical(
        None,
        "the step at which the decay ends, counted from the first one; later steps keep that rate "
        "(cosine and linear); null: the `steps` that the run begins with, also after a resume with "
        "more of them",
        resume="the rates before and after are told where they part",
    )
