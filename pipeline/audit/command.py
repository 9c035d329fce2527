"""The command: draw, estimate, write audit.html (and with marks audit.json) into the run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.audit.draw import Drawn, draw, fates, strata
from pipeline.audit.estimate import FORMAT, Mark, as_text, estimates, read_marks, result
from pipeline.engine.store import Store
from pipeline.report.kept import with_ledger
from pipeline.yamlfile import ConfigError

HERE = Path(__file__).parent


def audit(store: Store, rows: int, marks_file: Path | None) -> str:
    """Write the page; with marks, also the estimates. Returns what to print. Raises `ConfigError`."""
    run, facts = with_ledger(store, "audit")
    name = str(facts["name"])
    marks = read_marks(marks_file, name) if marks_file is not None else []
    found: dict[str, Any] | None = None
    if marks_file is not None:
        now = fates(run, {mark.id for mark in marks})
        if marks and not now:
            raise ConfigError(f"--marks {marks_file}: none of its {len(marks):,} records is in {run}")
        found = result(name, *estimates(strata(run), marks, now))
    drawn = draw(run, rows)
    store.write("audit.html", page(name, drawn, marks, found).encode("utf-8", "replace"))
    lines = [] if found is None else [as_text(found)]
    if found is not None:
        store.write("audit.json", (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    total = sum(len(one.rows) for one in drawn)
    bare = [one.stratum.name for one in drawn if not one.rows]
    lines.append(f"{run / 'audit.html'}: {total:,} documents of {len(drawn) - len(bare):,} rules and fates to mark")
    if bare:
        shown = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
        lines.append(f"without a document to show: {shown} (ended at reading, or engine.keep_dropped is none)")
    if marks_file is None:
        lines.append(f"open it in a browser, mark, download, then: python -m pipeline audit {run} --marks marks.json")
    return "\n".join(lines)


def page(name: str, drawn: list[Drawn], marks: list[Mark], found: dict[str, Any] | None) -> str:
    """The page: everything in one file, which asks nothing of any network."""
    data = {
        "format": FORMAT,
        "run": name,
        "strata": [
            {**one.stratum._asdict(), "name": one.stratum.name, "population": one.population, "rows": one.rows}
            for one in drawn
        ],
        "marks": [{"id": m.id, **m.stratum._asdict(), "name": m.stratum.name, "mark": m.mark} for m in marks],
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        name=name,
        data=Markup(_inert(json.dumps(data, ensure_ascii=True))),
        result=found,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
    )


def _inert(text: str) -> str:
    """JSON inside a script element: no `<` that could end it, no `&` that could mean another character."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
