"""The job file: YAML and `-o` overrides in, a `Job` out, or every mistake at once with its place.
Imports no torch.

job.yaml:12:9: islands.0.worker: unknown key; did you mean 'workers'?
-o batch.lanez=8: batch.lanez: unknown key; did you mean 'lanes'?
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from dougong.errors import DataError, JobError, ModelError
from dougong.job import validation_messages
from dougong.job.data_files import names_files
from dougong.job.lookup import value_at
from dougong.job.parts.data import SOURCES
from dougong.job.rule import Rule
from dougong.job.rules import breaches
from dougong.job.schema import OWN_SIGNING_KEY, Job
from dougong.job.tokenizer_choice import BYTES, default_tokenizer
from dougong.job.yaml import locations, overrides
from dougong.job.yaml.locations import KeyPath
from dougong.job.yaml.provenance import Mistake, Source, dotted
from dougong.job.yaml.render import lines_of, with_comments

PATH_KEYS: tuple[KeyPath, ...] = (
    *(("data", key) for key in SOURCES),
    ("data", "tokenizer"),
    ("model", "path"),
    ("model", "lora", "path"),
    ("cache",),
    ("checkpoint", "sign"),
)
KEPT: tuple[KeyPath, ...] = (("model", "path"), ("model", "lora", "path"), ("data", "tokenizer"))
"""Keys whose files a run keeps for itself: they may be others, or gone, when it goes on."""
_NOT_PATHS: dict[KeyPath, str] = {
    ("data", "text"): "stdlib",
    ("data", "tokenizer"): BYTES,
    ("checkpoint", "sign"): OWN_SIGNING_KEY,
}
_GLOBS = (("data", "text"), ("data", "dataset"), ("data", "chat"))


MOST_BYTES = 16 << 20
"""Of a job file: one that is named by mistake may be larger than memory, or have no end."""


@dataclass(frozen=True)
class ResolvedJob:
    """A valid job and where each value came from: `default`, `FILE:LINE` or `-o KEY=VALUE`, by
    dotted path. `places`: `FILE:LINE:COLUMN` of what was written."""

    job: Job
    origins: dict[str, str] = field(repr=False)
    places: dict[str, str] = field(repr=False, default_factory=dict)

    def to_yaml(self, comments: bool = False) -> str:
        """The job in full, one value a line, with absolute paths; it loads again to the same `Job`.

        With `comments` each line ends with the origin of its value.
        """
        lines = list(lines_of(self.job.model_dump(mode="json")))
        texts = with_comments(lines, self.origins if comments else {})
        return "".join(f"{text}\n" for text in texts)

    def located(self, message: str) -> str:
        """An error found later, as a mistake in the file: one that begins with a key that somebody
        has written (`model.family: ...`) begins with that key's place."""
        key, colon, _ = message.partition(":")
        return f"{self.places[key]}: {message}" if colon and key in self.places else message

    def summary(self) -> str:
        """The job in one line: name, model, steps, batch, workers."""
        job, batch = self.job, self.job.batch
        sequences = batch.lanes * batch.microbatches * batch.microbatch_size
        islands = []
        for island in job.islands:
            islands.append(f"{island.workers} on {island.name} ({island.accelerator})")
        return (
            f"{job.job}: {_model_words(job)}, {job.steps} steps of {sequences} "
            f"sequences x {job.data.sequence_length} tokens, workers: {', '.join(islands)}"
        )


def _model_words(job: Job) -> str:
    name = f"{job.model.family or job.model.path}"
    return name if job.model.attention is None else f"{name} (attention {job.model.attention})"


def load_job(
    path: str | Path,
    override: Sequence[str] = (),
    rules: Sequence[Rule] = (),
    kept: Collection[KeyPath] = (),
) -> ResolvedJob:
    """Read a job file, lay the overrides (`batch.lanes=8`, `islands.east.workers=3`, `drill=[]`)
    over it, check it.

    `rules`: more than the schema's own that it must keep; `kept`: keys whose files need not be
    there, `KEPT` for the job of a run. Later overrides win. Relative paths count from the file's
    folder, those of overrides from the current folder; the job holds absolute ones. Raises
    `JobError`, whose message has one line per mistake.
    """
    return _load(path, override, rules, kept, is_recorded=False)


def load_recorded(path: str | Path, override: Sequence[str] = ()) -> ResolvedJob:
    """As `load_job`, a run's own job file. Files that the run keeps may be gone, and so may the
    packages that offered what the file names; an override must name what is there."""
    return _load(path, override, (), KEPT, is_recorded=True)


def _load(
    path: str | Path,
    override: Sequence[str],
    rules: Sequence[Rule],
    kept: Collection[KeyPath],
    is_recorded: bool,
) -> ResolvedJob:
    file = Path(path)
    source = _read_source(file, str(path))
    recorded = _offered_names(source.data) if is_recorded else frozenset()
    for text in override:
        overrides.lay(source, text)
    _make_absolute(source, file.absolute().parent)
    _name_tokenizer(source.data)
    job = _checked_job(source, rules, kept, recorded if is_recorded else None)
    lines = lines_of(job.model_dump(mode="json"))
    paths = [line.path for line in lines if line.path is not None]
    origins = {dotted(path): source.origin(path) for path in paths}
    places = {dotted(path): place.value for path, place in source.places.items()}
    return ResolvedJob(job, origins, places)


@contextlib.contextmanager
def placed(resolved: ResolvedJob) -> Iterator[None]:
    """What is found wrong inside with the job or its files is told with its place in the job
    file."""
    try:
        yield
    except (JobError, ModelError, DataError) as error:
        raise type(error)(resolved.located(str(error))) from error


def _offered_names(data: Mapping[str, Any]) -> frozenset[str]:
    """What a job file says where packages may offer names: its accelerators and its bridge."""
    islands = data.get("islands")
    sections = islands if isinstance(islands, list) else []
    named = [island.get("accelerator") for island in sections if isinstance(island, dict)]
    return frozenset(name for name in (*named, data.get("bridge")) if isinstance(name, str))


def _checked_job(
    source: Source,
    rules: Sequence[Rule],
    kept: Collection[KeyPath],
    recorded: Collection[str] | None,
) -> Job:
    """The job, or JobError with every mistake: of the schema, of the rules, of YAML's truth
    values. `recorded`: names that a run has had from packages; None: no run has recorded it."""
    offered = recorded or frozenset()
    sections = _validate(source, offered)
    for breach in breaches(sections, rules):
        if breach.path not in kept:
            said = breach.on_resume if recorded is not None else ""
            source.blame(breach.path, said or breach.text, breach.is_key)
    _refuse_yes_no(source)
    if source.mistakes:
        raise _refusal(source.mistakes)
    return Job.model_validate(sections, context=offered)


def _read_source(file: Path, name: str) -> Source:
    """The file's values and their places. JobError where there is no mapping to go on with."""
    source = Source(name)
    document = locations.read(_read_text(file))
    source.take(document)
    if isinstance(source.data, dict):
        return source
    if document.readable:
        source.blame((), _not_a_mapping(source.data))
    raise _refusal(source.mistakes)


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            found = opened.read(MOST_BYTES + 1)
        if len(found) > MOST_BYTES:
            raise JobError(
                f"{file}: has more than {MOST_BYTES >> 20} MiB, which no job file has; name the "
                "job file, a text such as examples/quickstart.yaml"
            )
        return found.decode("utf-8-sig")
    except IsADirectoryError:
        raise JobError(f"{file}: a folder; name the job file in it") from None
    except FileNotFoundError:
        raise JobError(f"{file}: there is no such file; check the path") from None
    except OSError as error:
        advice = "check its permissions"
        raise JobError(f"{file}: cannot be read: {error.strerror}; {advice}") from error
    except UnicodeDecodeError as error:
        raise JobError(f"{file}:{_not_utf8(error)}; save it as UTF-8") from None


def _not_utf8(error: UnicodeDecodeError) -> str:
    newline = ord("\n")
    before, byte = error.object[: error.start], error.object[error.start]
    line, column = before.count(newline) + 1, error.start - before.rfind(newline)
    return f"{line}:{column}: not UTF-8 (byte {error.start} is 0x{byte:02x})"


def _not_a_mapping(data: Any) -> str:
    if data is None:
        return "the file is empty; start from examples/quickstart.yaml"
    kind = "a list" if isinstance(data, list) else "a single value"
    return f"the file holds {kind}; a job file is a mapping such as `job: quickstart`"


def _make_absolute(source: Source, folder: Path) -> None:
    for key in (*PATH_KEYS, *_mixture_paths(source.data)):
        values = value_at(key[:-1], source.data)
        if isinstance(values, dict):
            _make_value_absolute(source, values, key, folder)


def _mixture_paths(values: dict[str, Any]) -> Iterator[KeyPath]:
    """The keys of a mixture's sources."""
    data = values.get("data")
    mixture = data.get("mixture") if isinstance(data, dict) else None
    for number in range(len(mixture)) if isinstance(mixture, list) else ():
        yield from (("data", "mixture", number, key) for key in SOURCES)


def _make_value_absolute(
    source: Source, values: dict[str | int, Any], key: KeyPath, folder: Path
) -> None:
    value, kind = values.get(key[-1]), _kind(key)
    if isinstance(value, str) and value and value != _NOT_PATHS.get(kind):
        base = Path.cwd() if source.is_override(key) else folder
        values[key[-1]] = _absolute(value, base, kind)


def _kind(key: KeyPath) -> KeyPath:
    """What a key is outside of a mixture."""
    return ("data", key[-1]) if key[:2] == ("data", "mixture") else key


def _name_tokenizer(values: dict[str, Any]) -> None:
    """Write down which tokenizer a job means that names none, so that a folder that is changed
    later makes no other job of it."""
    data, model = values.get("data"), values.get("model")
    if not isinstance(data, dict) or data.get("tokenizer") is not None:
        return
    path = model.get("path") if isinstance(model, dict) else None
    mixture = data.get("mixture")
    sources = [data, *(mixture if isinstance(mixture, list) else ())]
    if any(_is_text(source) for source in sources):
        data["tokenizer"] = default_tokenizer(path if isinstance(path, str) else None)


def _is_text(source: Any) -> bool:
    """Whether a source is made of text, which a tokenizer makes ids of."""
    keys = ("text", "dataset", "chat")
    return isinstance(source, dict) and any(source.get(key) is not None for key in keys)


def _absolute(value: str, base: Path, key: KeyPath) -> str:
    path = os.path.expanduser(value)
    whole = os.path.join(base, path)
    if key == ("data", "dataset") and not names_files(path) and not os.path.isdir(whole):
        return value  # a name on the hub
    if key in _GLOBS and not os.path.exists(whole):
        # A glob: only what the user wrote is a pattern, not the folder that it counts from.
        return os.path.join(glob.escape(str(base)), path)
    return whole


def _validate(source: Source, recorded: Collection[str]) -> dict[str, Any]:
    """The valid top-level sections; what is wrong with the others is blamed."""
    try:
        job = Job.model_validate(source.data, context=recorded)
        return {name: getattr(job, name) for name in Job.model_fields}
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    for finding in validation_messages.explain(wrong, source.data):
        source.blame(finding.path, finding.text, finding.is_key)
    bad = {str(one["loc"][0]) for one in wrong}
    good = [name for name in Job.model_fields if name not in bad]
    return {name: _one_section(name, source.data, recorded) for name in good}


def _one_section(name: str, data: Mapping[str, Any], recorded: Collection[str]) -> Any:
    info = Job.model_fields[name]
    if name not in data:
        return info.get_default(call_default_factory=True)
    kind: Any = Annotated[info.annotation, info]
    return TypeAdapter(kind).validate_python(data[name], context=recorded)


def _refuse_yes_no(source: Source) -> None:
    """Elsewhere the schema knows what is text; a model's configuration would take the text `no` for
    true."""
    for path in source.yes_no:
        if path[:2] == ("model", "config"):
            text = "yes, no, on and off are text in YAML 1.2"
            source.blame(path, f"{text}; write true or false, or put it in quotes")


def _refusal(mistakes: Sequence[Mistake]) -> JobError:
    ordered = sorted(mistakes, key=lambda mistake: mistake.order)
    return JobError("\n".join(dict.fromkeys(str(mistake) for mistake in ordered)))
