"""The `opt_out` stage: pages whose publisher has said that they are not to be used, in the page or in HTTP fields.

It reads what came with the page. `robots.txt` and `/.well-known/tdmrep.json` are files of the site, and the crawler's
to respect.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from stages.batch import Batch
from stages.opt_out_page import declarations
from stages.stage import Decision, MapStage, Resources, StageConfig, knob, register

_BING = "Bing webmaster blog, September 2023"
_ROBOTS = "robots meta element and X-Robots-Tag, Google Search Central"


class OptOutConfig(StageConfig):
    """Knobs of `opt_out`: one for each thing that can be declared, in the order of the rules."""

    noai: bool = knob(
        True, "`noai`: no content of the page for AI training", "DeviantArt, November 2022; read by img2dataset"
    )
    noml: bool = knob(True, "`noml`: searchable, not for machine learning", "NoML proposal (Mojeek)")
    noimageai: bool = knob(
        True,
        "`noimageai`: no image of the page for AI training; `false` keeps the text of such pages",
        "DeviantArt, November 2022; read by img2dataset",
    )
    tdm_reservation: bool = knob(
        True,
        "`tdm-reservation: 1`, a `<meta>` element or an HTTP field: text and data mining is reserved (EU 2019/790, article 4)",
        "TDM Reservation Protocol, W3C community group",
    )
    content_usage: bool = knob(
        True, "the HTTP field `Content-Usage: train-ai=n`", "IETF aipref, drafts vocab-06 and attach-04"
    )
    content_signal: bool = knob(True, "the HTTP field `Content-Signal: ai-train=no`", "Cloudflare's Content Signals")
    noindex: bool = knob(True, "`noindex`: the page is in no search engine's index", _ROBOTS)
    none: bool = knob(True, "`none`: the same as `noindex, nofollow`", _ROBOTS)
    noarchive: bool = knob(
        True, "`noarchive`: no stored copy; Bing takes it as a refusal of training", f"{_ROBOTS}; {_BING}"
    )
    nocache: bool = knob(True, "`nocache`: Bing trains on address, title and snippet of such pages alone", _BING)
    nosnippet: bool = knob(False, "`nosnippet`: no excerpt in search results, which says nothing of training", _ROBOTS)
    agents: tuple[str, ...] = knob(
        ("*", "ccbot", "gptbot", "google-extended", "applebot-extended", "claudebot", "anthropic-ai"),
        "whom a declaration must address to count, any case: `*` is everyone (`<meta name=robots>`, X-Robots-Tag without a "
        "name), other names are crawlers' (`<meta name=ccbot>`, `X-Robots-Tag: ccbot: noindex`). Those of search engines, "
        "`googlebot` say, are not for us unless they stand here",
        "crawlers of training data, as their operators name them",
    )


_RULES = tuple(name for name in OptOutConfig.__annotations__ if name != "agents")


@register
class OptOut(MapStage):
    """Drops pages whose publisher has declared that they are not to be indexed, archived, mined or trained on.

    Stands before `extract`, which ends the HTML. Looks at the `<meta>` elements of the first 64 KiB and, where the record has
    them, at the HTTP fields X-Robots-Tag, TDM-Reservation, Content-Usage and Content-Signal (column `http_opt_out`, one
    `name: value` a line). Scored: every declaration, also those that no knob asks for, so that a changed knob needs no
    new look at pages. The ledger's detail says whom the declaration addresses and where it stands.
    """

    name = "opt_out"
    version = 1
    config_model = OptOutConfig
    needs = ("html",)
    decide_knobs = (*_RULES, "agents")
    resources: ClassVar[Resources] = Resources(memory=64 << 20)
    config: OptOutConfig

    def provides(self) -> dict[str, pa.DataType]:
        """Nothing: the verdicts are all."""
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        """All declarations, `agent:directive:place` each, separated by blanks; null where there is none."""
        return {"opt_out_declared": pa.string()}

    def scored(self) -> tuple[str, ...]:
        """The declarations: `decide` needs them."""
        return tuple(self.measures())

    def measure(self, batch: Batch) -> pa.Table:
        """One look at the start of each page."""
        rows = zip(batch.values("html"), batch.values("html_charset"), batch.values("http_opt_out"), strict=True)
        found = [" ".join(declarations(html, _text(charset), _text(fields))) or None for html, charset, fields in rows]
        return pa.table({"opt_out_declared": pa.array(found, pa.string())})

    def decide(self, values: pa.Table) -> Decision:
        """One rule for each knob that is on, in their order; the detail is `agent place`."""
        decision = Decision.keep(values.num_rows)
        agents = {agent.lower() for agent in self.config.agents}
        wanted = [rule for rule in _RULES if getattr(self.config, rule)]
        column = values.column("opt_out_declared").combine_chunks()
        for row in pc.indices_nonzero(column.is_valid()).to_pylist():
            said: dict[str, str] = {}
            for declaration in column[row].as_py().split(" "):
                agent, directive, place = declaration.split(":")
                if agent in agents:
                    said.setdefault(directive, f"{agent} {place}")
            for rule in wanted:
                if rule in said:
                    decision.drop(row, rule, detail=said[rule])
        return decision


def _text(value: Any) -> str | None:
    """A column of a user's file may hold anything."""
    return value if isinstance(value, str) else None
