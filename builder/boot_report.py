"""``hyperbuild boot --report``: the timeline as JSON, or drawn on a page."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.junit import as_junit
from hyperbuild.builder.report_style import STYLE
from hyperbuild.converter.errors import InputError, NotFoundError, UnavailableError, printable
from hyperbuild.converter.files import draft, named_output, write_all
from hyperbuild.launcher.timeline import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from hyperbuild.launcher.budget import Budget
    from hyperbuild.launcher.timeline import Timeline

_STYLE = """
.lane{position:relative;height:16px;min-width:320px;background:var(--d0);border-radius:3px}
.lane i{position:absolute;top:0;bottom:0;min-width:2px;border-radius:3px;background:var(--bar)}
.lane i.late{background:var(--waste)}
td.w{width:60%}
pre{margin:0;overflow-x:auto;font:12px/1.45 ui-monospace,"DejaVu Sans Mono",monospace}
.scroll pre{max-height:420px;overflow-y:auto}
.verdict{margin-top:18px;font-size:15px;font-weight:600;overflow-wrap:anywhere}
td.why{width:50%;overflow-wrap:anywhere}
@media(max-width:640px){.lane{min-width:90px}td.w{width:35%}.name p{white-space:normal}}
"""
#: The steps that are shown large.
_TILES = ("init", "renewed", "app_exec", "listening", "healthy")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@contextmanager
def reported(
    paths: Sequence[Path],
    image: str,
    timeline: Timeline,
    budgets: Sequence[Budget],
    smoke: Callable[[], dict[str, Any]] | None = None,
) -> Iterator[None]:
    """Write what is known at the end of the block, however that ends, as each of paths.

    That is what timeline has, and what smoke returns of a smoke test. Before it: InputError if a
    path is neither *.json nor *.html (nor *.xml, with smoke) or no regular file, NotFoundError
    if its directory is not there, UnavailableError if it cannot be written.
    """
    check_reports(paths, smoke=smoke is not None)
    with ExitStack() as stack:
        drafts = []
        for path in paths:
            stack.enter_context(_explained(path))
            place = named_output(path)
            drafts.append(
                (place, _RENDERERS[path.suffix], stack.enter_context(draft(place.parent)))
            )
        try:
            yield
        finally:
            document = _document(image, timeline, budgets)
            if smoke:
                document["smoke"] = smoke()
            for place, render, file in drafts:
                write_all(file.fd, render(document).encode())
                file.publish(place)


def check_reports(paths: Sequence[Path], *, smoke: bool) -> None:
    """Raise InputError for a path that no report is written as, with smoke: of a smoke test."""
    for path in paths:
        known = [suffix for suffix in _RENDERERS if smoke or suffix != ".xml"]
        if path.suffix not in known:
            *some, last = known
            raise InputError(f"report {path}: name a file that ends in {', '.join(some)} or {last}")
        # That no directory is there is no matter of words.
        with suppress(NotFoundError):
            named_output(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
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
            _note_on_counting(document["budgets"]),
            _smoke_sections(document.get("smoke")),
            _budget_table(document["budgets"]),
            _tiles(document["steps"]),
            _lanes(document),
            _said(document.get("smoke")),
            "</main></body></html>\n",
        )
    )


def _note_on_counting(budgets: list[dict[str, Any]]) -> str:
    if not any(budget["unit"] == "instructions" for budget in budgets):
        return ""
    return (
        "<p>In this boot the guest's clock counted its instructions, one for a nanosecond: the "
        "times of its steps are not those of other boots.</p>"
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


def _smoke_sections(smoke: dict[str, Any] | None) -> str:
    """Say whether the smoke test held, and show each expectation."""
    if smoke is None:
        return ""
    if smoke["held"]:
        verdict = '<p class="verdict ok">The smoke test held.</p>'
    else:
        verdict = f'<p class="verdict problem">{escape(printable(smoke["reason"]))}</p>'
    rows = "".join(
        f'<tr><td class="name">{escape(printable(entry["name"]))}</td>'
        + (
            f'<td class="r">{entry["ms"]:.0f}</td><td class="ok">held</td><td class="why"></td>'
            if entry["held"]
            else '<td class="r">-</td><td class="problem">failed</td>'
            f'<td class="why">{escape(printable(entry["failure"]))}</td>'
        )
        + "</tr>"
        for entry in smoke["expectations"]
    )
    if not rows:
        return verdict
    head = '<tr><th>Expectation</th><th class="r">at ms</th><th></th><th></th></tr>'
    table = f'<div class="scroll"><table>{head}{rows}</table></div>'
    return f"{verdict}<section><h2>Smoke test</h2>{table}</section>"


def _said(smoke: dict[str, Any] | None) -> str:
    """Show the ends of what the application and the kernel said."""
    if smoke is None:
        return ""
    titles = {"output": "Output of the application", "console": "Console of the guest"}
    return "".join(
        f'<section><h2>{title}</h2><div class="scroll"><pre>'
        f"{escape(_lines(smoke[key]))}</pre></div></section>"
        for key, title in titles.items()
        if smoke[key]
    )


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


_RENDERERS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    ".json": _as_json,
    ".html": _as_page,
    ".xml": as_junit,
}
