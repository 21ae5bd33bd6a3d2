"""`dougong report` and `dougong data` as a person types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from dougong.cli.main import main
from dougong.cli.report import report
from dougong.errors import LaunchError
from tests.chats import chat_tokenizer, many, write_chats
from tests.cli.test_fingerprint import dougong
from tests.launcher.jobs import write
from tests.ui.recorded import finished_run
from typer.testing import CliRunner


def test_it_draws_the_page_and_names_it(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    run = finished_run(tmp_path / "run")
    done = CliRunner().invoke(app, [str(run.path)])
    assert (done.exit_code, done.stdout.strip()) == (0, str(run.report_file))
    assert run.report_file.exists()
    assert isinstance(CliRunner().invoke(app, [str(tmp_path)]).exception, LaunchError)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plan.json", b"{"),
        ("plan.json", b"\xff"),
        ("status.json", b"\xff"),
        ("status.json", b'{"state": "WHATEVER"}'),
        ("job.yaml", b"\xff"),
        ("events.jsonl", b'{"kind": "created", "generation": 1, "job": "a", "wall": "yesterday"}\n'),
    ],
)
def test_a_damaged_record_is_one_sentence_and_status_2(
    tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "run")
    (run.path / name).write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run.path)])
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == ""
    assert said.err.startswith(str(run.path / name)) and said.err.count("\n") == 1
    assert not run.report_file.exists()


def test_a_damaged_row_costs_the_page_that_row_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path / "run")
    first, second, *others = run.metrics_file.read_text().splitlines()
    run.metrics_file.write_text("\n".join([first, second[:-9], *others, ""]))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run.path)])
    said = capsys.readouterr()
    assert ended.value.code == 0 and said.out.strip() == str(run.report_file)
    assert f"note: {run.metrics_file}:2: not JSON (" in said.err
    assert "metrics.jsonl:2: not JSON (" in run.report_file.read_text()


def test_what_is_learnt_is_marked(tmp_path: Path) -> None:
    chat_tokenizer(tmp_path / "tokenizer")
    write_chats(tmp_path / "a.jsonl", many(9))
    job = write(
        tmp_path,
        model="{family: qwen3_moe}",
        data="{chat: a.jsonl, tokenizer: tokenizer, sequence_length: 128}",
        cache=str(tmp_path / "cache"),
    )
    done = dougong("data", job, "-n", "1")
    assert (done.returncode, done.stderr) == (0, "")
    title, text = done.stdout.split("\n", 1)
    assert title.startswith("--- step 1, lane 0, micro-batch 0, window ") and "of them learnt" in title
    assert "<|im_start|>assistant\n⟦it is " in text and text.rstrip().endswith("<|im_end|>\n⟧")
    write_chats(tmp_path / "a.jsonl", [{"messages": []}])
    wrong = dougong("data", job)
    assert wrong.returncode == 2 and "a.jsonl: line 1: messages: must be a list" in wrong.stderr
