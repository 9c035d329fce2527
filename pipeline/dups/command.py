"""The command: find the record, its cluster and their texts; print them, or write them as a page."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.dups.cluster import ELSEWHERE, TAGGED, Cluster, Member, cluster_of, find
from pipeline.dups.difference import Difference, difference
from pipeline.dups.reread import read_again
from pipeline.dups.texts import Text, Texts
from pipeline.engine.store import Store
from pipeline.report.kept import with_ledger
from pipeline.yamlfile import ConfigError
from training.report import human

HERE = Path(__file__).parent
STYLE = HERE.parent / "report" / "report.css"
BEGINNING = 600  # characters of the kept text


def dups(store: Store, what: str, limit: int, page: Path | None, reread: bool, colour: bool) -> str:
    """The cluster of a record, as text for a terminal (`colour`: with ANSI escapes); with `page`, written there as HTML.

    Raises `ConfigError` for what is not a record of the run.
    """
    run, facts = with_ledger(store, "dups")
    found = find(run, what)
    if not found:
        raise ConfigError(
            f"{human.shown(what, 300)}: no record of {run} has this id or URL; give an id or a URL of its ledger/"
        )
    cluster = cluster_of(run, found[0], limit)
    view = _view(run, facts, cluster, reread)
    view["others"] = [one.id for one in found[1:]]
    if page is None:
        return as_text(view, colour)
    _write(page, _environment().get_template("page.html").render(view))
    return f"{page}: {view['title']}"


def _view(run: Path, facts: dict[str, Any], cluster: Cluster, reread: bool) -> dict[str, Any]:
    """What is shown of a cluster."""
    texts = Texts(run, facts)
    pairs = [(one, one.stage) for one in cluster.members]
    pairs += [(cluster.known[one.kept_id], one.stage) for one in cluster.members if one.kept_id in cluster.known]
    texts.look([*pairs, (cluster.top, None)])
    if reread:
        missing = [(one, stage) for one, stage in pairs if texts.of(one, stage).text is None]
        for (one, _), again in zip(missing, read_again(run, facts, missing), strict=True):
            texts.add(one, texts.shown(again.text, again.where, again.date) if again.text else Text(None, again.where))
    top = texts.of(cluster.top, None)
    removed: dict[tuple[str, str], list[str]] = {}
    for (stage, rule, source), number in sorted(cluster.removed.items()):
        removed.setdefault((stage, rule), []).append(f"{source} {number:,}")
    return {
        "name": str(facts["name"]),
        "title": _title(cluster),
        "removed": [(_by(stage, rule), ", ".join(sources)) for (stage, rule), sources in removed.items()],
        "top": _facts(cluster, cluster.top, top),
        "beginning": None if top.text is None else top.text[:BEGINNING] + ("…" if len(top.text) > BEGINNING else ""),
        "members": [_member(cluster, one, texts) for one in cluster.members],
        "more": cluster.size - 1 - len(cluster.members),
    }


def _title(cluster: Cluster) -> str:
    top = cluster.top
    if cluster.size == 1:
        return f"{top.id} has no duplicates: {_fate(top)}"
    return f"cluster of {cluster.size:,} documents, {_fate(top)} {top.id}"


def _fate(member: Member) -> str:
    """What became of the top of a cluster."""
    if member.fate == "kept":
        return "kept:"
    if member.fate == ELSEWHERE:
        return "kept in another run:"
    return f"{member.fate} in the end by {_by(member.stage, member.rule)}:"


def _by(stage: str | None, rule: str | None) -> str:
    return f"{stage}:{rule}" if stage else f"{rule}"


def _facts(cluster: Cluster, member: Member, text: Text) -> dict[str, Any]:
    return {
        "id": member.id,
        "asked": member.id == cluster.asked,
        "source": human.shown(member.source, 120),
        "url": human.shown(member.url, 300) if member.url else None,
        "date": text.date.strftime("%Y-%m-%d %H:%M:%S") if text.date else None,
        "place": human.shown(f"{member.file} at {member.offset}" if member.file else "", 300),
        "where": text.where,
        "more": text.more,
    }


def _member(cluster: Cluster, member: Member, texts: Texts) -> dict[str, Any]:
    """A removed document, and its differences to the one that it was dropped for."""
    partner = cluster.known.get(member.kept_id or "")
    text = texts.of(member, member.stage)
    view = {**_facts(cluster, member, text), "kept_id": member.kept_id, "tagged": member.rule == TAGGED}
    view["by"] = "a stage with mode: tag" if member.rule == TAGGED else _by(member.stage, member.rule)
    view["similarity"] = None if member.similarity is None else human.number(member.similarity)
    view["threshold"] = None if member.threshold is None else human.number(member.threshold)
    view["then"] = None
    if partner is not None and partner is not cluster.top:
        view["then"] = f"which {_by(partner.stage, partner.rule)} dropped for {partner.kept_id}"
    other = texts.of(partner, member.stage) if partner is not None else Text(None, "not shown (--max)")
    view["against"] = other.where
    view["difference"] = difference(other.text, text.text) if text.text is not None and other.text is not None else None
    view["alone"] = text.text[:BEGINNING] if text.text is not None and other.text is None else None
    return view


_PLAIN = {"first": ("[-", "-]"), "second": ("{+", "+}"), "gap": ("", ""), "same": ("", "")}
_ANSI = {
    "first": ("\x1b[31;9m", "\x1b[0m"),
    "second": ("\x1b[32;1m", "\x1b[0m"),
    "gap": ("\x1b[2m", "\x1b[0m"),
    "same": ("", ""),
}


def as_text(view: dict[str, Any], colour: bool) -> str:
    """The cluster for a terminal: marks as wdiff writes them, or colours."""
    lines = [view["title"]]
    lines += [f"  removed by {by}: {sources}" for by, sources in view["removed"]]
    if view["others"]:
        lines.append(f"  other records with this URL: {', '.join(view['others'][:20])}")
    lines += ["", *_head("kept " if view["members"] else "", view["top"])]
    lines += [f"   | {line}" for line in (view["beginning"] or "").splitlines() if line.strip()]
    for number, one in enumerate(view["members"], 1):
        lines += ["", *_head(f"{number}. ", one)]
        similar = f", similarity {one['similarity']}" if one["similarity"] is not None else ""
        similar += f" (threshold {one['threshold']})" if one["threshold"] is not None else ""
        then = f", {one['then']}" if one["then"] else ""
        lines.append(
            f"   {'tagged' if one['tagged'] else 'dropped'} by {one['by']} for {one['kept_id']}{similar}{then}"
        )
        lines += _comparison(one, colour)
    if view["more"]:
        lines += ["", f"{view['more']:,} more are not shown (--max)"]
    return "\n".join(lines)


def _head(label: str, one: dict[str, Any]) -> list[str]:
    parts = [f"source {one['source']}", one["url"] or "no URL", *([one["date"]] if one["date"] else [])]
    return [f"{label}{one['id']}{'  <- asked for' if one['asked'] else ''}", f"   {'  '.join(parts)}"]


def _comparison(one: dict[str, Any], colour: bool) -> list[str]:
    found: Difference | None = one["difference"]
    if found is None:
        lines = [f"   text: {one['where']}" if one["alone"] is None else f"   text of the other: {one['against']}"]
        return lines + [f"   | {line}" for line in (one["alone"] or "").splitlines() if line.strip()]
    where = one["where"] if one["where"] == one["against"] else f"{one['where']}; of the other: {one['against']}"
    first, second = (_marked(_ANSI if colour else _PLAIN, kind, kind_of) for kind, kind_of in _LEGEND)
    if not found.changed:
        return [f"   the same words{_unread(one)} (text: {where})"]
    lines = [f"   {_changed(found)}{_unread(one)} (text: {where}); {first}, {second}:"]
    marks = _ANSI if colour else _PLAIN
    shown = "".join(
        _marked(marks, p.kind, f" … {p.words:,} same words … " if p.kind == "gap" else p.text) for p in found.pieces
    )
    return lines + [f"   | {line}" for line in shown.splitlines() if line.strip()]


_LEGEND = (("first", "only in the other"), ("second", "only in this one"))


def _marked(marks: dict[str, tuple[str, str]], kind: str, text: str) -> str:
    """A piece between its marks; white space at its end stays outside."""
    begin, end = marks[kind]
    core = text.rstrip() if begin or end else text
    return f"{begin}{core}{end}{text[len(core) :]}"


def _changed(found: Difference) -> str:
    return "1 word differs" if found.changed == 1 else f"{found.changed:,} words differ"


def _unread(one: dict[str, Any]) -> str:
    """What was not compared."""
    words = max(one["difference"].unread)
    if words:
        return f" in the first words, {words:,} more were not compared"
    return f" in the first characters, {one['more']:,} more were not compared" if one["more"] else ""


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["style"] = Markup(STYLE.read_text(encoding="utf-8") + (HERE / "page.css").read_text("utf-8"))
    environment.globals |= {"unread": _unread, "changed": _changed}
    return environment


def _write(target: Path, page: str) -> None:
    """The page, whole or not at all. Raises `ConfigError` where it cannot be written."""
    name = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".dups-", suffix=".tmp", dir=target.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as out:
            out.write(page)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except OSError as error:
        raise ConfigError(f"--html {target}: cannot be written: {error.strerror}") from None
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)
