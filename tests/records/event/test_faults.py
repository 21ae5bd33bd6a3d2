"""Events of faults: a diagnosis as it is written down, and as an earlier release wrote it."""

from __future__ import annotations

from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis
from dougong.records.event.faults import FailureDiagnosed, WorkerDied

HUNG = Diagnosis(
    Culprit("worker", "east/1", "node1"), "hang", "stopped", evidence=("state T since 3.1 s",), latency_s=3.1
)


def test_a_diagnosis_is_written_with_its_class_culprit_evidence_and_latency() -> None:
    event = FailureDiagnosed.of(3, HUNG, ("east/0",))
    line = event.model_dump(mode="json", by_alias=True)
    assert line["culprit"] == {"kind": "worker", "name": "east/1", "node": "node1"}
    assert (line["class"], line["evidence"], line["latency_s"]) == ("hang", ["state T since 3.1 s"], 3.1)
    assert FailureDiagnosed.model_validate(line).who == HUNG.culprit
    assert WorkerDied.of(3, HUNG).who == HUNG.culprit


def test_what_an_earlier_release_wrote_names_a_worker() -> None:
    line = {"generation": 1, "worker": "west/0", "node": "n2", "class": "crash", "cause": "SIGKILL"}
    assert FailureDiagnosed.model_validate(line).who == Culprit("worker", "west/0", "n2")
