"""Everything that a run writes: who does, in which thread, how long that may take, and what becomes
of it where storage does not take it. docs/design/storage.md shows this table."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class WriterRow:
    """One kind of file. `thread`: which waits for storage; `deadline`: a field of `Deadlines`, or
    several; `policy`: what is done with what storage refuses; `told`: where a person sees it;
    `lost`: what is gone for good."""

    what: str
    thread: str
    deadline: str
    policy: str
    told: str
    lost: str

    @property
    def cells(self) -> tuple[str, ...]:
        """As a row of a table."""
        return tuple(astuple(self))


_TOLD = "event, panel, `status`"

WRITERS = (
    WriterRow(
        "`events.jsonl`",
        "the controller's `write the run's records`",
        "`storage_retry_s`, at the end `records_end_s`",
        "all are kept in memory and written when storage answers",
        _TOLD,
        "nothing, but what a run that ends names in its last words",
    ),
    WriterRow(
        "`metrics.jsonl`",
        "the same",
        "the same",
        "64 MiB are kept (some ten thousand steps), then new rows are dropped and counted",
        _TOLD,
        "dropped rows",
    ),
    WriterRow(
        "`status.json`, `plan.json`, `job.yaml`",
        "the same",
        "the same",
        "the newest takes the place of the one before",
        _TOLD,
        "nothing",
    ),
    WriterRow(
        "`tensorboard/`",
        "the controller's `write points for TensorBoard`",
        "`storage_retry_s`",
        "16 MiB are kept, then rows are dropped and counted; a new file after each refusal",
        _TOLD,
        "dropped points, which `metrics.jsonl` has",
    ),
    WriterRow(
        "the screen, also where it is a file or a pipe",
        "the controller's `write the screen`",
        "at the end `logs_end_s`",
        "4 MiB of text are kept, then lines are dropped",
        "nowhere else",
        "those lines; the events have what matters",
    ),
    WriterRow(
        "`lease/`",
        "the controller's `dougong-lease`",
        "`lease_renew_s`, others wait `lease_s`",
        "tried again; who is cut off for longer may be followed by another controller",
        "by the successor",
        "nothing",
    ),
    WriterRow(
        "`logs/`",
        "each agent's `write workers' logs`",
        "`storage_retry_s`, at the end `logs_end_s`",
        "8 MiB for each agent are kept, then lines are dropped and counted in the log itself",
        _TOLD,
        "dropped lines; alarms and the first worker's lines are on the screen all the same",
    ),
    WriterRow(
        "`ledger/`",
        "each worker's `write the ledger's files`",
        "`storage_retry_s`, at the end `logs_end_s`",
        "16 MiB are kept, then steps are dropped and counted",
        _TOLD,
        "checksums by tensor of those steps; the ledger's digest is in `metrics.jsonl`",
    ),
    WriterRow(
        "a worker's part of a checkpoint",
        "each worker's `checkpoint-STEP`",
        "`stage_checkpoint_s`, of the last one `commit_checkpoint_s`",
        "refused: the next save tries anew, the last one is tried again; late: saves are left out",
        "event `checkpoint_failed`, panel, `status`",
        "that checkpoint",
    ),
    WriterRow(
        "the commit of a checkpoint",
        "the controller's `dougong-commit`",
        "`commit_checkpoint_s`",
        "the next save tries anew, the last commit is tried again",
        "event `checkpoint_failed`, panel, `status`",
        "that checkpoint",
    ),
    WriterRow(
        "the deletion of old checkpoints",
        "the same, after the commit, and after a generation that begins has its state; what was "
        "left unfinished also after each search for a checkpoint and each refused save",
        "`kill_s` at the end",
        "tried again at the next occasion; links and directories with other files are left alone",
        "event `checkpoints_left`, once for each reason",
        "room",
    ),
    WriterRow(
        "the lease, the address, `job.yaml`, `sources.json`, `tokenizer/` of a start",
        "the command's own",
        "none",
        "nothing trains yet: an error ends the start",
        "the command's last words",
        "nothing",
    ),
    WriterRow(
        "`report.html`",
        "the command's own, when the run is over",
        "none",
        "left out where the records could not be written",
        "the command's last words",
        "the page; `dougong report` draws it later",
    ),
)
"""In the order of a run."""

HEAD = ("what", "thread", "limit", "where storage refuses or hangs", "told", "lost")
