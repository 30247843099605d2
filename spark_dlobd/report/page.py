"""The report as one self-contained HTML page. Runs on the driver."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from spark_dlobd.report.plots import curves_over_time, shares_bars, svg, utilization_over_time

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.limit { background: #f2f6fa; border-left: 4px solid #0072B2; padding: .7rem 1rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.note { color: #555; font-size: .9rem; }
"""
_FACTS = (
    ("backend", "backend"),
    ("backend_reason", "why this backend"),
    ("transport", "transport"),
    ("workers", "workers"),
    ("batch_size", "batch size over all workers"),
    ("seed", "seed"),
    ("rows_per_epoch", "rows of an epoch"),
    ("steps_per_epoch", "steps of an epoch"),
    ("trainable_weights", "trainable weights"),
    ("bytes_sent_per_step", "bytes a worker sends in a step (computed)"),
    ("target", "stopWhen"),
    ("seconds_to_target", "seconds to the target"),
    ("plan", "shard plan"),
    ("weights_hash", "hash of the trained weights"),
)
_NOTES = {
    "shares": "Waiting is for slower workers. Compute is what is left of a step: forward and "
    "backward pass, update and callbacks.",
    "utilization": "CPU and memory are those of the rank's process; network is that of its whole "
    "host, loopback included.",
}


def report_page(report: Mapping[str, Any], status: str = "FINISHED") -> str:
    """Write the page.

    Parameters
    ----------
    report : mapping
        A `FitReport`.
    status : {"FINISHED", "FAILED", "KILLED"}
        How the fit ended.

    Returns
    -------
    str
        HTML that loads nothing from elsewhere.
    """
    title = f"Fit with backend {report['backend']}, {report['workers']} workers"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(status.lower())} after {report["total_seconds"]:.1f} s</p>',
        f'<p class="limit">{escape(report["limit"]["text"])}</p>',
        _picture("Where the time went", shares_bars(report), _NOTES["shares"]),
        _table("Seconds by phase", report["seconds"].items()),
        _picture("Metrics over time", curves_over_time(report)),
        _accuracy(report),
        _epochs(report),
        _picture("Utilization over time", utilization_over_time(report), _NOTES["utilization"]),
        _table(
            "Facts", [(label, report[key]) for key, label in _FACTS if report.get(key) is not None]
        ),
        _table("Versions and machine of the driver", report["system"].items()),
        _list("Warnings", report["warnings"]),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def _picture(heading: str, figure: Any, note: str = "") -> str:
    if figure is None:
        return ""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(heading)}</h2>{svg(figure)}{below}"


def _table(heading: str, rows: Any) -> str:
    lines = "".join(f"<tr><th>{escape(str(name))}</th>{_cell(value)}</tr>" for name, value in rows)
    return f'<h2>{escape(heading)}</h2><div class="wide"><table>{lines}</table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{escape(str(value))}</td>"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return f'<td class="number">{shown}</td>'


def _accuracy(report: Mapping[str, Any]) -> str:
    reached = report["accuracy"]
    if not reached["seconds"]:
        return ""
    rows = [(f">= {level}", seconds) for level, seconds in reached["seconds"].items()]
    return _table(f"Seconds to {reached['metric']}", rows)


def _epochs(report: Mapping[str, Any]) -> str:
    seconds, rates = report["epoch_seconds"], report["rows_per_second"]
    if not seconds or len(rates) != len(seconds):
        return ""
    lines = "".join(
        f"<tr>{_cell(epoch)}{_cell(each)}{_cell(rate)}</tr>"
        for epoch, (each, rate) in enumerate(zip(seconds, rates, strict=True), 1)
    )
    head = "<tr><th>epoch</th><th>seconds</th><th>rows/s</th></tr>"
    return f'<h2>Epochs</h2><div class="wide"><table>{head}{lines}</table></div>'


def _list(heading: str, texts: Any) -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<h2>{escape(heading)}</h2><ul>{items}</ul>"
