"""The one family of errors that a user meets.

A message holds the values that clash, the rule, and the next thing to type. Every class survives
pickling, because errors travel between processes. `exit_status` is what the command line ends with.
"""

BAD_INPUT = 2
"""The status of what is said before anything is begun: it would be so again."""


class DougongError(Exception):
    """Base of every error that dougong raises on purpose."""

    exit_status = 1

    def status_of(self, has_begun: bool) -> int:
        """What a run ends with by it. `has_begun`: workers have been started, so that it cannot be
        what the command was given alone."""
        return 1 if has_begun and self.exit_status == BAD_INPUT else self.exit_status


class JobError(DougongError):
    """The job file (or an override) is wrong; nothing was started."""

    exit_status = BAD_INPUT


class PlanError(DougongError):
    """The job cannot be laid out on this cluster."""

    exit_status = BAD_INPUT


class DeviceError(DougongError):
    """A kind of device, a device or its native library is not known, not here or not sound."""

    exit_status = BAD_INPUT


class ModelError(DougongError):
    """The model cannot be built, or cannot be cut at its experts."""

    exit_status = BAD_INPUT


class DataError(DougongError):
    """The training data cannot be read as the job file says."""

    exit_status = BAD_INPUT


class NumericsError(DougongError):
    """A loss, a gradient or a weight is not finite: to train on would spoil the run."""


class CorruptionError(DougongError):
    """Numbers of a step are not what was computed: a device, its memory or a message is wrong.
    `accused`: the names of the worker whose numbers they are, or of the two between which it
    happened; found before the step was committed."""

    def __init__(self, text: str, accused: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.accused = accused


class CheckpointError(DougongError):
    """A checkpoint is missing, torn, or does not hold what was written."""


class MisfitError(CheckpointError, ModelError):
    """A checkpoint holds other tensors than the model has: to read it again gives no others."""


class ManifestError(CheckpointError):
    """A checkpoint's manifest is missing, damaged, or not signed as it must be. `reason`: why,
    without the place and the remedy."""

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason or text


class SourceError(CheckpointError):
    """What a command was given is no checkpoint, or cannot be used for what it asks."""

    exit_status = BAD_INPUT


class ReproducibilityError(DougongError):
    """A step that was computed again has other bits than the job promises."""


class LaunchError(DougongError):
    """Processes could not be started, reached or agreed with."""


class PlaceError(LaunchError):
    """A place, a name or options that a command was given are not there, or contradict each other:
    nothing was begun."""

    exit_status = BAD_INPUT


class NotNowError(LaunchError):
    """A controller refuses what it will do when it trains again."""


class AliveError(LaunchError):
    """A controller of the run lives, or may: a second one would spoil it. It is for the other to
    end, so the same command may succeed later."""

    exit_status = 3


class SupersededError(AliveError):
    """Another controller has followed this one, which was taken for dead: the run goes on there."""


class PreemptedError(LaunchError):
    """Somebody has taken this machine from the run."""


class NoRoomError(LaunchError):
    """An island finds no room on the nodes that there are now. `is_held`: what it asks for is
    there, in the hands of others."""

    def __init__(self, text: str, is_held: bool = False) -> None:
        super().__init__(text)
        self.is_held = is_held


class StorageError(LaunchError):
    """A file of the run's record cannot be written: the disk is full, read-only, or gone."""


class RecordError(LaunchError):
    """A file of a run's record is damaged: what the command was given cannot be read."""

    exit_status = BAD_INPUT


class WorkerError(DougongError):
    """A worker ended; the message carries the first cause."""


class PeerError(DougongError):
    """A message to or from another worker failed: as a rule the consequence of that worker's end,
    not a cause. `waited_for`: the names of those for whom this worker has waited to the end of its
    time; empty where the message failed otherwise."""

    waited_for: tuple[str, ...] = ()


class RestError(PeerError):
    """A worker's generation ends after a step, as the controller has asked: no step is lost, and
    its process waits for the next generation. Nothing has failed."""
