"""The report as a value: who is named, and what is sound."""

from __future__ import annotations

from dougong.doctor.record import DoctorReport, Symptom, check_of, not_run


def test_a_check_with_symptoms_has_failed_and_names_each_node_once() -> None:
    symptoms = (Symptom(words="a", remedy="b", nodes=("n1",)), Symptom(words="c", remedy="d", nodes=("n1", "n2")))
    failed, sound, none = check_of("clock", symptoms), check_of("disk", ()), not_run("links", "alone")
    assert (failed.grade, sound.grade, none.grade) == ("failed", "sound", "not run")
    assert failed.named == ("n1", "n2")
    report = DoctorReport(
        where="here", job="", quick=True, nodes=("n1",), wall="", seconds=1.0, checks=(failed, sound, none)
    )
    assert report.failed == (failed,) and not report.is_sound and report.named == ("n1", "n2")
    assert DoctorReport.model_validate_json(report.model_dump_json()) == report
