"""What a user asks for: the job file's schema. Imports no torch; `jobfile` reads YAML into it and names lines."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A strict, immutable part of the job file: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Positive = Annotated[int, Field(gt=0)]


class Model(Section):
    """Which transformers model: a family with its configuration, or a Hugging Face folder."""

    family: str | None = Field(None, description="a transformers MoE model type, such as qwen3_moe")
    path: str | None = Field(None, description="a Hugging Face folder with config.json and weights")
    config: dict[str, Any] = Field(default_factory=dict, description="keys of the family's own configuration class")


class Validation(Section):
    """Which part of the data is held out and how often it is measured."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    every: Positive = 100
    batches: Positive = 4


class Data(Section):
    """Where tokens come from. Exactly one of `text`, `tokens`, `megatron`, `dataset`."""

    text: str | None = None
    tokens: str | None = None
    megatron: str | None = None
    dataset: str | None = None
    tokenizer: str = "bytes"
    sequence_length: Positive = 256
    validation: Validation | None = None


class Batch(Section):
    """The logical batch of one step: lanes x microbatches x microbatch_size sequences."""

    lanes: Positive = 1
    microbatches: Positive = 1
    microbatch_size: Positive = 1


class AdamW(Section):
    """AdamW (Loshchilov and Hutter 2019) with global gradient-norm clipping."""

    name: Literal["adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 3.0e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1.0e-8
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0


class Schedule(Section):
    """Learning rate over steps: linear warm-up, then the named decay to `final_fraction` of the peak."""

    name: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1


class Island(Section):
    """A group of like devices with one native collective library."""

    name: str
    accelerator: Literal["cpu", "cuda", "npu"]
    workers: Positive = 1
    role: Literal["attention", "experts", "both"] = "both"
    threads: Positive = 1
    node: str | None = Field(None, description="pin to the Ray node with this address or name")


class Checkpoint(Section):
    """How often a checkpoint is committed (0: only at the end) and how many are kept."""

    every: Annotated[int, Field(ge=0)] = 100
    keep: Positive = 2


class Fault(Section):
    """What the controller may do by itself."""

    max_restarts: Annotated[int, Field(ge=0)] = 3


class Drill(Section):
    """A rehearsed fault: kill this worker when this step begins, once in the life of the run."""

    at_step: Positive
    kill: str = Field(description="a worker's name, such as east/1")


class Job(Section):
    """One training job, whole. Its arithmetic depends on everything here but `islands`, `checkpoint`, `fault`, `drill`."""

    job: str
    model: Model
    data: Data
    batch: Batch = Batch()
    optimizer: AdamW = AdamW()
    schedule: Schedule = Schedule()
    steps: Positive
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    islands: tuple[Island, ...]
    checkpoint: Checkpoint = Checkpoint()
    fault: Fault = Fault()
    drill: tuple[Drill, ...] = ()
