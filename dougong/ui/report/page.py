"""`report.html`: one page that holds all of a run and needs nothing beside itself: no script, no
font, no address.

The page is `page.html.j2` with the style of `page.css`; here it is given its values. It works on
any run: finished, failed, stopped, still going, or without a single step.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import jinja2
from markupsafe import Markup

from dougong import __version__
from dougong.records.directory import RunDir
from dougong.ui import formatting
from dougong.ui.event_words import link_words
from dougong.ui.health import lost_words, percent
from dougong.ui.history import History, read_history
from dougong.ui.next_step import next_step
from dougong.ui.report import rows
from dougong.ui.report.bits import bits_verdict
from dougong.ui.report.charts import training_charts
from dougong.ui.report.faults import fault_rows
from dougong.ui.report.summary import read_log_tail, summary_cards
from dougong.ui.report.templates import read_template, template_environment
from dougong.ui.report.timeline import draw_timeline, time_parts
from dougong.ui.report.traffic import traffic_table

_PACKAGE = "dougong.ui.report"

_SHOWN_EVENTS = 200
_SHOWN_FAULTS = 100
_SHOWN_WORKERS = 64


def write_report(run_dir: RunDir) -> Path:
    """Write RUN/report.html in one rename and hand back its path. LaunchError when a file of the
    run is broken."""
    run_dir.write_report(render(read_history(run_dir), run_dir))
    return run_dir.report_file


def render(history: History, run_dir: RunDir) -> str:
    """The whole page as text. Whatever a user or a worker could name is escaped by jinja2."""
    page = _environment().get_template("page.html.j2")
    event_rows = rows.event_rows(history.events)
    return page.render(
        history=history,
        style=Markup(read_template(_PACKAGE, "page.css")),
        version=__version__,
        now=datetime.now(timezone.utc).isoformat(),
        next_command=str(next_step(history.path, history.state, history.events)),
        log_tail=read_log_tail(history, run_dir),
        summary_cards=summary_cards(history),
        charts=training_charts(history),
        **_fault_values(history),
        recoveries=rows.recovery_rows(history.recoveries),
        starts=rows.start_rows(history.events),
        warnings=rows.warning_words(history.events, history.note),
        traffic=traffic_table(history),
        workers=rows.worker_rows(history, history.plan) if history.plan else [],
        shown_workers=_SHOWN_WORKERS,
        classes=rows.class_words(history.classes),
        links=link_words(history.events),
        older_events=event_rows[:-_SHOWN_EVENTS],
        newest_events=event_rows[-_SHOWN_EVENTS:],
        machine_facts=rows.machine_facts(history.machine),
    )


def _fault_values(history: History) -> dict[str, object]:
    """Where the time went, the faults, and what became of the bits."""
    faults = fault_rows(history)
    return {
        "timeline": draw_timeline(history.course, faults),
        "time_parts": time_parts(history.goodput),
        "older_faults": faults[:-_SHOWN_FAULTS],
        "newest_faults": faults[-_SHOWN_FAULTS:],
        "bits": bits_verdict(history),
    }


def _environment() -> jinja2.Environment:
    environment = template_environment(_PACKAGE)
    environment.filters["lost"] = lost_words
    environment.filters["percent"] = percent
    environment.filters["plural"] = formatting.plural
    environment.filters["size"] = formatting.size
    return environment
