"""What is not there at all: the experts of a layer, or one tensor of every expert. Known by the
configuration, by routers, and by what experts elsewhere have. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from dougong.job.rule import flat
from dougong.models.stored.quantised import Quantisation
from dougong.tools.experts.contents import Contents, Expert
from dougong.tools.experts.numbers import is_a_scale
from dougong.tools.experts.places import counts_said, expert_counts, num_idle
from dougong.ui.formatting import ranges

_CONFIG = "config.json"
_IN_A_LAYER = re.compile(r"(?P<layer>(?:.*\.)?\d+)\.(?P<rest>.+)")
_ROUTER = re.compile(r"(^|\.)(gate|router\w*)\.")
_ROUTED = re.compile(r"experts?\b")
_SHARED = re.compile(r"share|residual")
_GATE, _UP, _DOWN = "gate", "up", "down"
_ROLES = {
    "gate_proj": (_GATE,), "up_proj": (_UP,), "down_proj": (_DOWN,), "gate_up_proj": (_GATE, _UP),
    "w1": (_GATE,), "w3": (_UP,), "w2": (_DOWN,), "w13": (_GATE, _UP),
    "input_linear": (_GATE, _UP), "output_linear": (_DOWN,),
    "fc1": (_GATE, _UP), "fc2": (_DOWN,),
}  # fmt: skip
"""What a tensor is to its expert, by the first word of its name."""
_WORDS = (
    {_GATE: "gate_proj", _UP: "up_proj", _DOWN: "down_proj"},
    {_GATE: "w13", _UP: "w13", _DOWN: "w2"},
    {_GATE: "w1", _UP: "w3", _DOWN: "w2"},
    {_GATE: "input_linear", _UP: "input_linear", _DOWN: "output_linear"},
    {_GATE: "fc1", _UP: "fc1", _DOWN: "fc2"},
)
_ROLE = re.compile(rf"({'|'.join(_ROLES)})(?=$|[._])(?P<rest>.*)")
_BESIDE = re.compile(r"bias|scale|zero|input_|g_idx")
"""What lies beside the values of a tensor."""
_GATED = ("silu", "swish")
"""Activations, by `hidden_act`, of experts that have a gate in every family."""


@dataclass(frozen=True)
class Flaw:
    """`is_alike`: experts that are the same, as those of a model are that was made of a dense one's
    layers; else something is lost or damaged."""

    site: str
    words: str
    is_alike: bool = False

    def __str__(self) -> str:
        return f"{self.site}: {self.words}"


def absent(contents: Contents) -> Iterator[Flaw]:
    """Of whole layers, and of all experts of a layer."""
    yield from _disagreements(contents)
    yield from _layers(contents)
    yield from _routers(contents)
    for site, experts in contents.sites.items():
        yield from _lost_roles(site, _roles_of(experts), contents)
        yield from _lost_beside(site, experts)
        yield from _lost_scales(site, experts, contents)
    yield from _unlike_others(contents)


def doubles(contents: Contents) -> Iterator[Flaw]:
    """What is there twice, so that nobody knows which is meant."""
    for one, other in contents.twice:
        yield Flaw(one, f"is the same tensor of the same expert as {other}; remove one of them")
    for site, experts in contents.sites.items():
        found: dict[str, None] = {}
        for expert in experts.values():
            found |= dict.fromkeys(_twice(expert))
        for words in found:
            yield Flaw(site, words)


def _twice(expert: Expert) -> Iterator[str]:
    first: dict[str, str] = {}
    for part in sorted(expert):
        for role in _roles_of_part(part):
            if first.setdefault(role, part) != part:
                yield f"has {first[role]} and {part}, each of which is an expert's {role}"


# Layers.


def _disagreements(contents: Contents) -> Iterator[Flaw]:
    for said in counts_said(contents.config):
        if len(set(said.values())) > 1:
            numbers = ", ".join(f"{key}: {count}" for key, count in said.items())
            yield Flaw(_CONFIG, f"says of a layer's experts {numbers}; make it one number")


def _layers(contents: Contents) -> Iterator[Flaw]:
    """Layers of which no tensor is there, where others have experts."""
    config = flat(contents.config)
    # LongCat-Flash has two attentions in a layer, and counts them as layers under the first key.
    number = config.get("num_layers", config.get("num_hidden_layers"))
    stems = {layer_of(site).rpartition(".")[0] for site in contents.sites}
    if type(number) is not int or len(stems) != 1:
        return
    stem = stems.pop()
    layers = {layer_of(name) for name in (*contents.sites, *contents.others)}
    missing = [index for index in range(number) if f"{stem}.{index}" not in layers]
    if missing:
        which = f"layer{'s' if len(missing) > 1 else ''} {ranges(missing)}"
        yield Flaw(stem, f"no tensor of {which} is there, of {number} that config.json says")


def _routers(contents: Contents) -> Iterator[Flaw]:
    """Layers that choose among experts and have none."""
    held = {layer_of(site) for site in contents.sites}
    held |= {layer_of(name) for name in contents.others if _may_be_an_expert_s(name, contents)}
    counts = expert_counts(contents.config)
    if not held:
        if counts and not _is_dense(contents):
            yield Flaw(_CONFIG, f"says {_number(counts)} experts in a layer, and none is there")
        return
    rows = _router_rows(counts, contents)
    without: dict[str, str] = {}
    for name, stored in contents.others.items():
        layer = layer_of(name)
        if layer not in held and _is_a_router(name, stored.shape, rows):
            without.setdefault(layer, name)
    for layer, name in without.items():
        yield Flaw(layer, f"has a router ({name}), but none of its experts is there")


def _router_rows(counts: Collection[int], contents: Contents) -> set[int]:
    """How many rows a router may have: also for an expert that is none, and for shared ones."""
    shared = flat(contents.config).get("n_shared_experts")
    rows = set[int]()
    for count in counts:
        rows |= {count, count + 1, count + num_idle(contents.config)}
        rows |= {count + shared} if type(shared) is int else set()
    return rows


def layer_of(name: str) -> str:
    """`model.layers.3` of `model.layers.3.mlp.gate.weight`; nothing of what is in no layer."""
    found = _IN_A_LAYER.fullmatch(name)
    return "" if found is None else found["layer"]


def _is_a_router(name: str, shape: tuple[int, ...], rows: Collection[int]) -> bool:
    if _SHARED.search(name) or not _ROUTER.search(name) or not layer_of(name):
        return False
    return len(shape) == 2 and shape[0] in rows


def _may_be_an_expert_s(name: str, contents: Contents) -> bool:
    """Experts that lie in a form that is not known."""
    is_routed = _ROUTED.search(name) is not None and _SHARED.search(name) is None
    return is_routed and len(contents.others[name].shape) >= 2


def _is_dense(contents: Contents) -> bool:
    """Whether a configuration that says a number of experts has no layer with them."""
    config = flat(contents.config)
    layers, dense = config.get("num_hidden_layers"), config.get("first_k_dense_replace")
    is_all = type(layers) is int and type(dense) is int and dense >= layers
    kinds = config.get("mlp_layer_types")
    is_each = isinstance(kinds, list) and set(kinds) == {"dense"}
    return is_all or is_each or config.get("enable_moe_block") is False


def _number(counts: Collection[int]) -> str:
    return " or ".join(str(count) for count in sorted(counts))


# Tensors.


def _roles_of_part(part: str) -> tuple[str, ...]:
    found = _ROLE.fullmatch(part)
    if found is None or _BESIDE.search(found["rest"]):
        return ()
    return _ROLES[found[1]]


def _parts_of(experts: Mapping[int, Expert]) -> set[str]:
    return set[str]().union(*experts.values())


def _roles_of(experts: Mapping[int, Expert]) -> set[str]:
    return set[str]().union(*(_roles_of_part(part) for part in _parts_of(experts)))


def _lost_roles(site: str, roles: set[str], contents: Contents) -> Iterator[Flaw]:
    """An expert goes up and down, and has a gate where its activation says so."""
    if not roles:
        return
    parts = _parts_of(contents.sites[site])
    firsts = {found[1] for part in parts if (found := _ROLE.fullmatch(part)) is not None}
    is_gated = flat(contents.config).get("hidden_act") in _GATED or "w3" in firsts
    due = {_UP, _DOWN, *([_GATE] if is_gated else [])}
    words = _words_of(firsts)
    for lost in dict.fromkeys(words[role] for role in sorted(due - roles)):
        yield Flaw(site, f"no expert has its {lost}")


def _words_of(firsts: Collection[str]) -> Mapping[str, str]:
    """How the family calls an expert's tensors."""
    if "w2" in firsts and "w13" not in firsts:
        return _WORDS[2]
    return next((words for words in _WORDS if set(firsts) & set(words.values())), _WORDS[0])


def _lost_beside(site: str, experts: Mapping[int, Expert]) -> Iterator[Flaw]:
    """MXFP4 blocks are nothing without their scales."""
    parts = _parts_of(experts)
    for part in sorted(parts):
        scales = f"{part.removesuffix('_blocks')}_scales"
        if part.endswith("_blocks") and scales not in parts:
            yield Flaw(site, f"no expert has its {scales}, without which {part} has no values")


def _lost_scales(site: str, experts: Mapping[int, Expert], contents: Contents) -> Iterator[Flaw]:
    """Of FP8 values that are quantised, by the configuration; one for all experts is of none."""
    if Quantisation.of(contents.config) is None:
        return
    parts: Expert = {}
    for expert in experts.values():
        parts |= expert
    known = [*parts, *(name for name in contents.others if name.startswith(f"{site}."))]
    if any(is_a_scale(name) for name in known):
        return
    for part in sorted(parts):
        if parts[part].dtype.startswith("F8_"):
            yield Flaw(site, f"no expert has a scale, without which {part} has no values")


def _unlike_others(contents: Contents) -> Iterator[Flaw]:
    """Tensors that experts of other layers have."""
    by_kind: dict[str, dict[str, set[str]]] = {}
    for site, experts in contents.sites.items():
        kind = re.sub(r"\d+", "*", site)
        parts = _parts_of(experts)
        biases = {part for part in parts if part.endswith("bias")}
        by_kind.setdefault(kind, {})[site] = biases
    for sites in by_kind.values():
        known = set[str]().union(*sites.values())
        for site, its in sites.items():
            for part in sorted(known - its):
                yield Flaw(site, f"no expert has its {part}, as those of other layers have")
