"""Why our extractor kept what it kept: a page of HTML with every block in its place, coloured by how likely it was content."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from stages.extract.blocks import LENGTH, LINKED
from stages.extract.gristmill import Choice
from stages.extract.metadata import read_metadata
from stages.extract.page import Page
from stages.extract.reading import Reader
from stages.extract.render import render
from stages.extract.tags import NAMES

_STYLE = """
:root { color-scheme: light; } body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 78rem; padding: 1.5rem; color: #1c1c1c; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .3rem; overflow-wrap: anywhere; } p.about { color: #555; margin: .2rem 0 1rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; } td, th { text-align: left; vertical-align: top; padding: .25rem .6rem; border-bottom: 1px solid #fff; }
th { color: #555; font-weight: 600; } td:first-child, th:first-child { width: 4.5rem; font-variant-numeric: tabular-nums; }
td.where, th.where { width: 22rem; font: 12px/1.5 ui-monospace, monospace; color: #444; overflow-wrap: anywhere; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; } tr.kept { background: #dff3df; } tr.dropped { background: #f8e3e1; } tr.near { background: #fbf1cf; }
"""
_LONGEST = 600  # characters shown of a block
_MOST = 400  # blocks shown of a page
_NEAR = 0.15  # a probability so close to the threshold is marked


def explain_pages(reader: Reader, rows: Sequence[tuple[str | bytes, str | None, str | None]]) -> str:
    """A self-contained page about some pages, each (HTML, charset of the header, address or None)."""
    parts = [_explain(reader, *row) for row in rows]
    legend = (
        "<p class=about>Green blocks are kept, red ones are not, yellow ones are dropped but near the threshold. The number is how likely the model "
        "takes a block for main content; below it stand the elements around the block, its length, how much of it is links, and what the words in "
        "class and id say (above 0: content).</p>"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>What was extracted</title>'
        f"<style>{_STYLE}</style></head><body><h1>What was extracted, and why</h1>{legend}{''.join(parts) or '<p>No row has HTML.</p>'}</body></html>\n"
    )


def _explain(reader: Reader, html: str | bytes, charset: str | None, url: str | None) -> str:
    page, codec = reader.page(html, charset)
    title = read_metadata(page, url).title
    choice = reader.choose(page)
    kept = int(choice.kept.sum())
    about = f"{len(choice.kept)} blocks, {kept} kept{'' if codec is None else f'; decoded as {codec}'}"
    lines = [_block(page, choice, block) for block in range(min(len(choice.kept), _MOST))]
    more = (
        f"<p class=about>{len(choice.kept) - _MOST} more blocks are not shown.</p>" if len(choice.kept) > _MOST else ""
    )
    return (
        f"<h2>{escape(url or title or 'A page')}</h2><p class=about>{escape(title or '')} ({about})</p>"
        f"<table><thead><tr><th>likely</th><th class=where>where</th><th>text</th></tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"
    )


def _block(page: Page, choice: Choice, block: int) -> str:
    blocks, likely = choice.blocks, float(choice.probability[block])
    keep = np.arange(len(choice.kept)) == block
    text = render(page.tree, blocks, keep)
    length, linked = int(blocks.text[block, LENGTH]), int(blocks.text[block, LINKED])
    kind = "kept" if choice.kept[block] else "near" if likely > _least(choice) - _NEAR else "dropped"
    cues = [value for node in _around(page, int(blocks.container[block])) if (value := float(blocks.cue[node]))]
    facts = f"{length} characters, {linked * 100 // max(length, 1)}% links" + (
        f", cues {' '.join(f'{cue:+.1f}' for cue in cues[:4])}" if cues else ""
    )
    path = " &gt; ".join(
        escape(_name(page, node)) for node in reversed(_around(page, int(blocks.container[block]))[:4])
    )
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
    return f'<tr class="{kind}"><td>{likely:.2f}</td><td class="where">{path}<br>{facts}</td><td class="text">{escape(shown)}</td></tr>'


def _least(choice: Choice) -> float:
    return float(choice.probability[choice.kept].min()) if choice.kept.any() else 1.0


def _around(page: Page, node: int) -> list[int]:
    """An element and those around it, the nearest first."""
    found = []
    while node >= 0:
        found.append(node)
        node = int(page.tree.parent[node])
    return found


def _name(page: Page, node: int) -> str:
    """An element as its start tag names it, cut short."""
    tree = page.tree
    attributes = page.raw[tree.begin[node] : tree.end[node]].decode("utf-8", "replace")
    name = NAMES[tree.tag[node]].replace("#other", "element")
    return name + " " + " ".join(attributes.split())[:60] if attributes.strip() else name
