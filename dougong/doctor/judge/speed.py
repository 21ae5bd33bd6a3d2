"""How quick nodes are, and whether they compute the same bits: like devices against each other.
Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dougong.doctor.ask.observations import Observations
from dougong.doctor.facts import DeviceSpeed
from dougong.doctor.judge.machine import ALONE
from dougong.doctor.majority import (
    PART_OF_MATMUL,
    PART_OF_MEMORY,
    PART_OF_STORAGE,
    OddOnes,
    judge_kinds,
    judge_numbers,
)
from dougong.doctor.record import DoctorCheck, Symptom, check_of, not_run
from dougong.fingerprint.judge import difference
from dougong.fingerprint.record import Fingerprint
from dougong.parallel.bridge.measured import rate_words
from dougong.planner.agreement import what_helps

_QUICK = "not with --quick"
_BUSY_SHARE = 0.8
"""Of a processor, that one has which nobody disturbs."""
_TERA = 1e12


@dataclass(frozen=True)
class MeasuredDevice:
    """A device with its node, called as people are told of it."""

    title: str
    node: str
    speed: DeviceSpeed

    @property
    def group(self) -> tuple[str, str]:
        """Devices that are compared: of one kind and name."""
        return self.speed.accelerator, self.speed.name


def devices_of(seen: Observations) -> list[MeasuredDevice]:
    """All that were asked for, in the order of the nodes."""
    found = []
    for node, answer in seen.speeds.items():
        name = seen.title(node)
        for speed in answer.devices:
            is_one = speed.accelerator == "cpu"
            title = name if is_one else f"{speed.accelerator}:{speed.index} of {name}"
            found.append(MeasuredDevice(title, name, speed))
    return found


def check_matmul(seen: Observations) -> DoctorCheck:
    """Products of matrices, a second of them."""
    return _check_speed(seen, "matmul", PART_OF_MATMUL)


def check_memory(seen: Observations) -> DoctorCheck:
    """Bytes a second, read and written."""
    return _check_speed(seen, "memory bandwidth", PART_OF_MEMORY)


def _check_speed(seen: Observations, what: str, part: float) -> DoctorCheck:
    if seen.request.quick:
        return not_run(what, _QUICK)
    devices = devices_of(seen)
    symptoms = [_on_problem(device) for device in devices if device.speed.problem]
    measured = [device for device in devices if not device.speed.problem]
    if not devices:
        return not_run(what, "no device is free to be measured")
    for group in _groups(measured).values():
        symptoms += _on_group(what, part, group)
    evidence = [f"{one.title}: {_figure(what, one.speed)}{_share(one.speed)}" for one in measured]
    remarks = [*_held(seen), *_alone(_groups(measured))]
    return check_of(what, tuple(symptoms), tuple(evidence), tuple(remarks))


def _held(seen: Observations) -> Iterator[str]:
    """Devices that were left alone."""
    for node, answer in seen.speeds.items():
        measured = {device.accelerator for device in answer.devices}
        for post in seen.demand.posts[node]:
            if post.num_devices and post.accelerator not in measured:
                yield f"{post.accelerator} of {seen.title(node)}: held by others, so not measured"


def _groups(devices: list[MeasuredDevice]) -> dict[tuple[str, str], list[MeasuredDevice]]:
    groups: dict[tuple[str, str], list[MeasuredDevice]] = {}
    for device in devices:
        groups.setdefault(device.group, []).append(device)
    return groups


def _alone(groups: Mapping[tuple[str, str], list[MeasuredDevice]]) -> Iterator[str]:
    """Those that have no peers."""
    for found in groups.values():
        if len(found) == 1:
            yield f"{found[0].title} has nobody alike to be compared with"


def _on_problem(device: MeasuredDevice) -> Symptom:
    return Symptom(
        words=f"{device.title} could not be measured: {device.speed.problem}",
        remedy=f"`dougong conform --accelerator {device.speed.accelerator}` there says more",
        nodes=(device.node,),
    )


def _on_group(what: str, part: float, group: list[MeasuredDevice]) -> Iterator[Symptom]:
    values = {one.title: _value(what, one.speed) for one in group}
    known = {one.title: one for one in group}
    judged = judge_numbers(values, part)
    for title in judged.named:
        one = known[title]
        share = _share(one.speed)
        found, usual = _figure(what, one.speed), _usual(what, judged)
        words = f"{what} of {title}: {found}{share}, the others {usual}"
        yield Symptom(words=words, remedy=_remedy(one.speed), nodes=(one.node,))
    if judged.disagree:
        each = [f"{one.title} {_figure(what, one.speed)}{_share(one.speed)}" for one in group]
        words = f"{what} differs: {', '.join(each)}; of two it cannot be said which is at fault"
        yield Symptom(words=words, remedy="look what else runs on them, or add a third to compare")


def _value(what: str, speed: DeviceSpeed) -> float:
    return speed.matmul_flops if what == "matmul" else speed.memory_bytes_per_s


def _figure(what: str, speed: DeviceSpeed) -> str:
    return _words(what, _value(what, speed))


def _usual(what: str, judged: OddOnes[str]) -> str:
    return _words(what, float(str(judged.usual)))


def _words(what: str, value: float) -> str:
    if what == "matmul":
        return f"{value / _TERA:.3g} TFLOP/s"
    return rate_words(value)


def _share(speed: DeviceSpeed) -> str:
    return "" if speed.cpu_share is None else f" (with {speed.cpu_share:.2f} of a processor)"


def _remedy(speed: DeviceSpeed) -> str:
    if speed.cpu_share is not None and speed.cpu_share < _BUSY_SHARE:
        return "end what else runs there, or raise the quota of its control group (`cpu.max`)"
    if speed.cpu_share is not None:
        return "look at its clock rate: governor, power, temperature (`cpupower frequency-info`)"
    return "look at its clocks, power and temperature, and at what else uses it"


def check_bits(seen: Observations) -> DoctorCheck:
    """Whether devices of a kind give the same bits, each of them the same every time."""
    if seen.request.quick:
        return not_run("bits", _QUICK)
    devices = [device for device in devices_of(seen) if device.speed.fingerprint]
    if not devices:
        return not_run("bits", "no device was measured")
    symptoms: list[Symptom] = []
    evidence = []
    kinds: dict[str, dict[str, Fingerprint]] = {}
    nodes = {device.title: device.node for device in devices}
    for device in devices:
        found = Fingerprint.from_json(device.speed.fingerprint)
        kinds.setdefault(device.speed.accelerator, {})[device.title] = found
        evidence.append(f"{device.title}: class {found.kernel_class} ({device.speed.name})")
        if found.unstable:
            words = f"{device.title} gives two answers: {', '.join(found.unstable)}"
            remedy = "have the device looked at; `dougong conform` there says more"
            symptoms.append(Symptom(words=words, remedy=remedy, nodes=(device.node,)))
    for kind, prints in kinds.items():
        symptoms += _on_bits(kind, prints, nodes, seen)
    return check_of("bits", tuple(symptoms), tuple(evidence))


def _on_bits(
    kind: str, prints: Mapping[str, Fingerprint], nodes: Mapping[str, str], seen: Observations
) -> Iterator[Symptom]:
    judged = judge_kinds({title: found.kernel_class for title, found in prints.items()})
    remedy = (
        "make them alike (threads, software, kind of device), give the roles to islands of one "
        "kind each, or accept rounding by `-o numerics=bounded`"
    )
    if judged.disagree:
        one, other = _two_unlike(prints)
        words = f"{kind}: {one} and {other} give different bits; which is right cannot be said"
        lines = difference(prints[one], prints[other])
        yield Symptom(words="\n".join([words, *lines]), remedy=remedy)
    usual = next((title for title in prints if title not in judged.named), "")
    for title in judged.named:
        words = f"{title} gives other bits than the other {kind} devices"
        lines = difference(prints[usual], prints[title])
        yield Symptom(words="\n".join([words, *lines]), remedy=remedy, nodes=(nodes[title],))


def _two_unlike(prints: Mapping[str, Fingerprint]) -> tuple[str, str]:
    one, *others = prints
    usual = prints[one].kernel_class
    return one, next(title for title in others if prints[title].kernel_class != usual)


def check_storage(seen: Observations) -> DoctorCheck:
    """How quickly bytes are on storage, and read again."""
    what = "storage speed"
    if seen.request.quick:
        return not_run(what, _QUICK)
    if not seen.stores:
        return not_run(what, "no node's storage could be tried")
    symptoms = []
    evidence = []
    rates: dict[str, float] = {}
    for node, store in seen.stores.items():
        name = seen.title(node)
        if store.problem:
            remedy = f"{what_helps(store.number)}, or choose another place by --run-dir"
            symptoms.append(Symptom(words=f"{name}: {store.problem}", remedy=remedy, nodes=(name,)))
            continue
        rates[name] = store.write_bytes_per_s
        written, read = rate_words(store.write_bytes_per_s), rate_words(store.read_bytes_per_s)
        evidence.append(f"{name}: {written} written, {read} read")
    judged = judge_numbers(rates, PART_OF_STORAGE)
    for name in judged.named:
        usual = rate_words(float(str(judged.usual)))
        words = f"{name} writes {rate_words(rates[name])}, the others {usual}"
        remedy = "look at its mount and at what else writes there"
        symptoms.append(Symptom(words=words, remedy=remedy, nodes=(name,)))
    remarks = [] if len(rates) > 1 else [ALONE]
    return check_of(what, tuple(symptoms), tuple(evidence), tuple(remarks))
