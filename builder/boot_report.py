"""``hyperbuild boot --report``: the timeline as JSON, or drawn on a page."""

from __future__ import annotations

import json
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.report_style import STYLE
from hyperbuild.converter.errors import InputError, UnavailableError, printable
from hyperbuild.converter.files import draft, write_all
from hyperbuild.launcher.timeline import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hyperbuild.launcher.budget import Budget
    from hyperbuild.launcher.timeline import Timeline

_STYLE = """
.lane{position:relative;height:16px;min-width:320px;background:var(--d0);border-radius:3px}
.lane i{position:absolute;top:0;bottom:0;min-width:2px;border-radius:3px;background:var(--bar)}
.lane i.late{background:var(--waste)}
td.w{width:60%}
"""
#: The steps that are shown large.
_TILES = ("init", "renewed", "app_exec", "listening", "healthy")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@contextmanager
def reported(
    path: Path, image: str, timeline: Timeline, budgets: Sequence[Budget]
) -> Iterator[None]:
    """Write what timeline has at the end of the block, however that ends, as path.

    Before it: InputError if path is neither *.json nor *.html or no regular file, UnavailableError
    if it cannot be written.
    """
    renderers = {".json": _as_json, ".html": _as_page}
    render = renderers.get(path.suffix)
    if render is None or (path.exists() and not path.is_file()):
        raise InputError(f"report {path}: name a file that ends in .json or .html")
    try:
        with draft(path.absolute().parent) as file:
            try:
                yield
            finally:
                content = render(_document(image, timeline, budgets))
                write_all(file.fd, content.encode())
                file.publish(path)
    except OSError as error:
        raise UnavailableError(
            f"cannot write the report {path}: {error.strerror}; choose another file"
        ) from error


def _document(image: str, timeline: Timeline, budgets: Sequence[Budget]) -> dict[str, Any]:
    limits = []
    for budget in budgets:
        spent = (timeline.counted if budget.instructions else timeline.reached)(budget.phase)
        limits.append(
            {
                "step": budget.phase,
                "unit": "instructions" if budget.instructions else "ns",
                "limit": budget.limit,
                "spent": spent,
                "met": spent is not None and spent <= budget.limit,
            }
        )
    return {"image": image, **timeline.document(), "budgets": limits}


def _as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _as_page(document: dict[str, Any]) -> str:
    title = escape(printable(document["image"]))
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>Boot of {title}</title><style>{STYLE}{_STYLE}</style></head><body><main>",
            f"<h1>Boot of {title}</h1>",
            "<p>Each bar is a step's time since the one before it, on the host's clock.</p>",
            _tiles(document["steps"]),
            _lanes(document),
            _budget_table(document["budgets"]),
            "</main></body></html>\n",
        )
    )


def _tiles(steps: list[dict[str, Any]]) -> str:
    shown = [step for step in steps if step["name"] in _TILES]
    tiles = "".join(
        f'<div class="tile"><b>{step["since_start_ms"]:.0f} ms</b>'
        f"<span>{escape(_meaning(step['name']))}</span></div>"
        for step in shown
    )
    return f'<div class="tiles">{tiles}</div>'


def _lanes(document: dict[str, Any]) -> str:
    """Draw all steps but the end, which says how long the application ran, not how it booted."""
    steps = [step for step in document["steps"] if step["name"] != "exit"]
    whole = max((step["since_start_ms"] for step in steps), default=0.0) or 1.0
    late = {
        limit["step"]
        for limit in document["budgets"]
        if limit["spent"] is not None and not limit["met"]
    }
    rows = []
    for step in steps:
        left = (step["since_start_ms"] - step["took_ms"]) / whole * 100
        width = step["took_ms"] / whole * 100
        mark = ' class="late"' if step["name"] in late else ""
        rows.append(
            f'<tr><td class="name">{escape(step["name"])}<p>{escape(_meaning(step["name"]))}</p>'
            f'</td><td class="w"><div class="lane">'
            f'<i{mark} style="left:{left:.2f}%;width:{width:.2f}%"></i></div></td>'
            f'<td class="r">{step["took_ms"]:.1f}</td><td class="r">{step["since_start_ms"]:.1f}'
            "</td></tr>"
        )
    head = '<tr><th>Step</th><th></th><th class="r">took ms</th><th class="r">at ms</th></tr>'
    table = f"<table>{head}{''.join(rows)}</table>"
    return f'<section><h2>Timeline</h2><div class="scroll">{table}</div></section>'


def _budget_table(budgets: list[dict[str, Any]]) -> str:
    if not budgets:
        return ""
    rows = []
    for budget in budgets:
        mark, word = ("ok", "met") if budget["met"] else ("problem", "exceeded")
        spent = (
            "not reached" if budget["spent"] is None else _amount(budget["spent"], budget["unit"])
        )
        rows.append(
            f'<tr><td>{escape(budget["step"])}</td><td class="r">{spent}</td>'
            f'<td class="r">{_amount(budget["limit"], budget["unit"])}</td>'
            f'<td class="{mark}">{word}</td></tr>'
        )
    head = '<tr><th>Step</th><th class="r">spent</th><th class="r">allowed</th><th></th></tr>'
    return f"<section><h2>Budgets</h2><table>{head}{''.join(rows)}</table></section>"


def _amount(number: int, unit: str) -> str:
    return f"{number / 1e6:.1f} ms" if unit == "ns" else f"{number / 1e6:.2f} M instructions"


def _meaning(name: str) -> str:
    return STEPS.get(name, "the guest told of it")
