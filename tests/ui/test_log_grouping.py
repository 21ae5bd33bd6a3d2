"""Many workers' lines: levels, tracebacks as one message, grouping by what is equal, all on an explicit clock."""

from __future__ import annotations

import pytest
from dougong.deadlines import DEADLINES, Deadlines
from dougong.ui.log_grouping import Classifier, Grouper, LogMessage, mask, says_nothing
from hypothesis import given
from hypothesis import strategies as st

TRACEBACK = """Traceback (most recent call last):
  File "/opt/train.py", line {line}, in step
    loss = forward(batch)
ValueError: token id {token} outside the vocabulary""".splitlines()

CHAINED = """Traceback (most recent call last):
  File "a.py", line 1, in f
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in f
RuntimeError: no x""".splitlines()


def traceback(line: int, token: int) -> list[str]:
    return [text.format(line=line, token=token) for text in TRACEBACK]


def feed(grouper: Grouper, now: float, worker: str, lines: list[str]) -> list[LogMessage]:
    return [message for line in lines for message in grouper.add(now, worker, line)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("step 12: loss 3.25e-04", "step 9: loss -1.5"),
        ("tensor at 0x7f12ab", "tensor at 0x55aa"),
        ("no such file: /data/a/x.bin", "no such file: /scratch/y.bin"),
        ("connection to 10.0.0.1:29500 closed", "connection to 10.0.0.22:41234 closed"),
        ("lost peer east/3", "lost peer west-2/11"),
        ("rank3 is slow", "rank12 is slow"),
        ("id 3e5a1b2c-aaaa-bbbb-cccc-1234567890ab", "id 00000000-0000-0000-0000-000000000000"),
    ],
)
def test_mask_makes_equal_what_differs_by_worker(one: str, other: str) -> None:
    assert mask(one) == mask(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("loss is nan", "loss is inf"), ("file a/b.py missing", "file a/c.py missing"), ("cat", "dog")],
)
def test_mask_keeps_what_matters(one: str, other: str) -> None:
    assert mask(one) != mask(other)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("step 3 loss 2.5", "info"),
        ("2025-11-22 05:00:01,123 WARNING transformers: no flash attention", "warning"),
        ("/opt/lib/x.py:31: UserWarning: lr_scheduler before optimizer", "warning"),
        ("[W1122 05:15:22.123 socket.cpp:697] retrying", "warning"),
        ("[rank1]:[E1122 05:15:22.123 gloo.cc:1] gone", "error"),
        ("ERROR: no space left", "error"),
        ("torch.OutOfMemoryError: tried to allocate 3 GiB", "error"),
        ("KeyboardInterrupt", "error"),
        ("\x1b[1;31mERROR\x1b[0m: coloured", "error"),
        ("Fatal Python error: Segmentation fault", "error"),
        ("relative error 1e-6, no warnings", "info"),
        ("mean absolute error: 0.1", "info"),
        ("", "info"),
    ],
)
def test_levels(line: str, level: str) -> None:
    assert Classifier().feed(line) == (level, True)


@pytest.mark.parametrize("prefix", ["", "[rank2]: "])
@pytest.mark.parametrize("lines", [traceback(3, 4), CHAINED])
def test_a_traceback_is_one_error_to_its_last_line(prefix: str, lines: list[str]) -> None:
    classifier = Classifier()
    classifier.feed("step 1")
    seen = [classifier.feed(prefix + line) for line in lines]
    assert seen == [("error", True)] + [("error", False)] * (len(lines) - 1)
    assert classifier.feed("step 2") == ("info", True)


def test_an_indented_line_belongs_to_the_warning_above() -> None:
    classifier = Classifier()
    assert classifier.feed("x.py:3: FutureWarning: soon gone") == ("warning", True)
    assert classifier.feed("  warnings.warn(") == ("warning", False)
    assert classifier.feed("plain") == ("info", True)
    assert classifier.feed("  indented") == ("info", False)


def test_equal_errors_of_many_workers_are_one_message() -> None:
    grouper = Grouper("east/0", DEADLINES)
    for index, worker in enumerate(["east/2", "east/0", "west/1", "east/1", "east/3"]):
        assert feed(grouper, 10.0 + index / 100, worker, traceback(7, index)) == []
    assert grouper.due(10.1) == []
    (message,) = grouper.due(10.8)
    assert message.workers == ("east/2", "east/0", "west/1", "east/1", "east/3")
    assert message.text.splitlines() == traceback(7, 0)
    assert (message.level, message.count, message.varied) == ("error", 5, True)
    assert str(message).startswith("[east/0-3, west/1] Traceback")


def test_unlike_messages_stay_apart_and_in_order() -> None:
    grouper = Grouper("east/0", DEADLINES)
    grouper.add(0.0, "east/1", "WARNING: slow disk")
    grouper.add(0.1, "east/2", "ERROR: no disk")
    assert [str(m) for m in grouper.flush(0.2)] == ["[east/1] WARNING: slow disk", "[east/2] ERROR: no disk"]
    assert grouper.flush(0.3) == []


def test_the_first_worker_passes_through_and_others_stay_in_their_logs() -> None:
    grouper = Grouper("east/0", DEADLINES)
    assert grouper.add(0.0, "east/0", "step 1") == [LogMessage("info", "step 1", ("east/0",))]
    assert grouper.add(0.0, "east/1", "step 1") == []
    assert grouper.flush(9.0) == []


def test_a_plain_line_ends_the_message_above_it() -> None:
    grouper = Grouper("east/0", DEADLINES)
    feed(grouper, 0.0, "east/0", ["WARNING: a", "plain", "  indented plain"])
    assert [m.text for m in grouper.flush(0.1)] == ["WARNING: a"]


def test_a_repeated_warning_is_counted_not_repeated() -> None:
    grouper = Grouper("east/0", Deadlines(log_quiet_s=60))
    told = [m for tick in range(1300) for m in grouper.add(tick / 10, "east/1", f"WARNING: step {tick} is slow")]
    told += grouper.flush(130.0)
    assert told[0].count < 10
    assert sum(m.count for m in told) == 1300
    assert len(told) == 4  # at once, after a minute, after two, at the end
    assert str(told[1]).endswith("(values differ) (600 times)")


def test_a_quiet_group_is_forgotten() -> None:
    grouper = Grouper("east/0", Deadlines(log_quiet_s=5))
    grouper.add(0.0, "east/1", "WARNING: a")
    assert len(grouper.due(1.0)) == 1
    assert grouper.due(7.0) == []
    grouper.add(8.0, "east/1", "WARNING: a")
    assert len(grouper.due(8.8)) == 1


def test_a_storm_of_unlike_messages_is_shown_in_bounded_memory() -> None:
    grouper = Grouper("east/0", DEADLINES, capacity=20)
    words = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(26 * 26)]
    shown = [m for i, word in enumerate(words) for m in grouper.add(i * 0.3, "east/1", f"ERROR: {word}")]
    shown += grouper.flush(200.0)
    assert [m.text for m in shown] == [f"ERROR: {word}" for word in words]
    # The newest ones are still quiet, one that was shown before them has been forgotten: it is shown again.
    for word in (words[-1], words[-30]):
        grouper.add(201.0, "east/1", f"ERROR: {word}")
    assert [m.text for m in grouper.due(203.0)] == [f"ERROR: {words[-30]}"]


workers = st.sampled_from(["east/0", "east/1", "east/2", "west/0"])
lines = st.sampled_from(["WARNING: a", "WARNING: b 3", "WARNING: b 4", "plain", "ERROR: x", *traceback(1, 2)])


@given(st.lists(st.tuples(workers, lines, st.floats(0, 3))))
def test_no_warning_is_ever_lost(said: list[tuple[str, str, float]]) -> None:
    grouper = Grouper("east/0", Deadlines(log_quiet_s=2.0))
    now, told = 0.0, []
    for worker, line, gap in said:
        now += gap
        told += grouper.add(now, worker, line)
    told += grouper.flush(now)
    for _, line, _ in said:
        if line.startswith(("WARNING", "ERROR")):
            assert any(mask(line) in mask(message.text) for message in told)
    alone = [line for _, line, _ in said if line.startswith("ERROR")]
    if not any(line.startswith("Traceback") for _, line, _ in said):
        assert sum(m.count for m in told if m.level == "error" and m.text.startswith("ERROR")) == len(alone)


NO_NAME = (
    "[W1126 02:14:44.561204932 socket.cpp:207] [c10d] The hostname of the client socket cannot be retrieved. err=-3"
)


@pytest.mark.parametrize("line", [NO_NAME, f"[rank3]: {NO_NAME}", f"\x1b[33m{NO_NAME}\x1b[0m"])
def test_a_name_that_nobody_asked_for_is_no_news(line: str) -> None:
    assert says_nothing(line)


@pytest.mark.parametrize(
    "line",
    [
        "[W1126 02:14:44.5 socket.cpp:460] [c10d] waitForInput: poll for socket 7 returned 0, likely a timeout",
        "[E1126 02:14:44.5 socket.cpp:1019] [c10d] The client socket has timed out after 60000ms",
        f"{NO_NAME}; giving up",
        "The hostname of the client socket cannot be retrieved",
        "",
    ],
)
def test_everything_else_of_torchs_sockets_is(line: str) -> None:
    assert not says_nothing(line)
