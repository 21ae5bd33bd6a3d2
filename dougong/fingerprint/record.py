"""The fingerprint of a device's arithmetic: fixed computations, and a hash of the bits that came
out.

Two workers may take each other's lanes and experts only if every kernel gives both the same bits.
Thread count, vector width, a library's version or mode, another model of GPU: each can change them,
and none is seen from outside. So each device runs *probes* (`general.py`, `job_shapes.py`) and the
hash of all their hashes names its *class*. Equal classes are strong evidence, not a proof: probes
are a sample. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

UNSTABLE = "unstable"
"""What stands for the hash of a probe that gave two answers."""
NO_KERNEL = "none"
"""What stands for the hash of a probe for which a device has no kernel."""
CANNOT_RUN = "cannot run: "
"""How it begins for a probe that ended in an error; its words follow."""
PRECISIONS = ("float32", "bfloat16")
ATTENTION, EXPERTS = "attention", "experts"
"""Whose form it is, in `Fingerprint.forms`."""
PROBES_VERSION = 2
"""What the probes ask, as a number: raise it with every change that could give one of them other
bits or another name. Two fingerprints of different versions are not compared. A test holds it
against the probes' syntax."""


@dataclass(frozen=True)
class JobShapes:
    """The sizes of a job's own kernel calls.

    matrices: [rows, columns] of its weights, each once; rows: of the blocks that meet them; heads,
    head_size, sequence: of attention; hidden, inner: widths of the residual stream and inside an
    expert; experts: that a router chooses from; vocabulary: number of token ids. kv_heads: of
    keys and values (0: as many as heads). attention: the forms by which it may be computed, where
    there are several the fastest first; swiglu: experts are of that kind, which has fused forms.
    """

    matrices: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    heads: int
    head_size: int
    sequence: int
    hidden: int
    inner: int
    experts: int
    vocabulary: int
    kv_heads: int = 0
    attention: tuple[str, ...] = ("sdpa",)
    swiglu: bool = False

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> JobShapes:
        """What `dataclasses.asdict` made, after a way over JSON."""
        matrices = tuple((int(n), int(k)) for n, k in raw["matrices"])
        lists = {"matrices": matrices, "rows": tuple(raw["rows"])}
        return JobShapes(**{**raw, **lists, "attention": tuple(raw["attention"])})


@dataclass(frozen=True)
class Fingerprint:
    """What one device computed. `probes`: name -> hash of the output's bits; `unstable`: those that
    gave two answers.

    `question`: digest of what was asked (the probes' version, shapes, precision): other questions
    are not comparable. `environment`: what explains a difference, and does not decide it.
    `version`: that of the probes. `forms`: by what attention and experts (`ATTENTION`, `EXPERTS`)
    are computed here, which the probes' names hold too.
    """

    probes: Mapping[str, str]
    question: str
    environment: Mapping[str, str] = field(default_factory=dict)
    version: int = PROBES_VERSION
    forms: Mapping[str, str] = field(default_factory=dict)

    @property
    def kernel_class(self) -> str:
        """16 hexadecimal digits; equal where every probe gave equal bits."""
        return digest(json.dumps(dict(sorted(self.probes.items()))).encode())

    @property
    def unstable(self) -> tuple[str, ...]:
        """Names of the probes that gave two answers."""
        return tuple(name for name, value in self.probes.items() if value == UNSTABLE)

    @property
    def unanswered(self) -> dict[str, str]:
        """Probe -> why it gave no bits. Two devices that both give none are not equal by that."""
        found = {}
        for name, value in self.probes.items():
            if value == NO_KERNEL:
                found[name] = "no kernel"
            elif value.startswith(CANNOT_RUN):
                found[name] = value.removeprefix(CANNOT_RUN)
        return found

    def to_json(self) -> dict[str, Any]:
        """Values that JSON can hold; `class` and `unstable` are written for the reader's eye."""
        return {
            "class": self.kernel_class,
            "question": self.question,
            "version": self.version,
            "unstable": list(self.unstable),
            "probes": dict(self.probes),
            "environment": dict(self.environment),
            "forms": dict(self.forms),
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Fingerprint:
        """The fingerprint again. ValueError when it is not whole: its class must be that of its
        probes."""
        try:
            probes, environment = _texts(raw["probes"]), _texts(raw["environment"])
            # The first version did not write its number.
            asked, version = str(raw["question"]), int(raw.get("version", 1))
            forms = _texts(raw.get("forms", {}))
            found, written = Fingerprint(probes, asked, environment, version, forms), raw["class"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"is no fingerprint (at {error})") from error
        if found.kernel_class != written:
            raise ValueError(
                f"a damaged fingerprint: its probes make class {found.kernel_class}, it says "
                f"{written}"
            )
        return found


def _texts(raw: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in raw.items()}


def differing_probes(a: Fingerprint, b: Fingerprint) -> list[str]:
    """Names of the probes that gave other bits, or that only one of the two ran."""
    names = dict.fromkeys([*a.probes, *b.probes])
    return [name for name in names if a.probes.get(name) != b.probes.get(name)]


def differing_environment(a: Fingerprint, b: Fingerprint) -> dict[str, tuple[str, str]]:
    """Entry -> its two values, where they differ; a value that is not there is `-`."""
    different = {}
    for name in sorted({*a.environment, *b.environment}):
        one, other = a.environment.get(name, "-"), b.environment.get(name, "-")
        if one != other:
            different[name] = (one, other)
    return different


def question_of(
    precisions: tuple[str, ...], shapes: JobShapes | None, updates_on_host: bool = False
) -> str:
    """Digest of what a fingerprint asks: the probes' version, precisions and shapes, and whether
    the machine's own update is among it. Imports no torch."""
    # Among which forms one was looked for is no part of it: what was found is in a probe's name.
    shown = None if shapes is None else replace(shapes, attention=())
    asked: tuple[Any, ...] = (PROBES_VERSION, precisions, shown)
    if updates_on_host:
        asked = (*asked, "update on the host")
    return digest(repr(asked).encode())


def digest(data: bytes) -> str:
    """blake2b of 8 bytes, in hexadecimal."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()
