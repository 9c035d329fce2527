"""report.html, report.json and report.parquet: one page without script or request, light and dark, and the same as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tokenizer_training.dataset.layout import atomic, write_json
from tokenizer_training.efficiency import charts
from tokenizer_training.efficiency.definitions import HONESTY, METRICS
from tokenizer_training.efficiency.tables import write_table

HERE = Path(__file__).parent
ROWS = 60  # of a table by language, source, domain or script
MANIFEST_ROWS = 40
PARITY_COLUMN = 30  # languages in one chart


def write(reports: list[dict[str, Any]], out_dir: str | Path, unlike: Sequence[dict[str, str]] = ()) -> None:
    """Write the three files for one tokenizer's facts, or for several of `compare`."""
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    content = (
        reports[0]
        if len(reports) == 1
        else {"format": reports[0]["format"], "tokenizers": reports, "unlike": list(unlike)}
    )
    write_json(out / "report.json", content)
    write_table(reports, out / "report.parquet")
    with atomic(out / "report.html") as temporary:
        temporary.write_text(render(reports, unlike), encoding="utf-8")


def whole(value: int | None) -> str:
    """An integer with commas."""
    return "–" if value is None else f"{value:,}"


def ratio(value: float | None) -> str:
    """Two decimals."""
    return "–" if value is None else f"{value:.2f}"


def small(value: float | None) -> str:
    """Three significant digits."""
    return "–" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share; small ones with enough digits not to read as nothing, and never 100 where something is missing."""
    if value is None:
        return "–"
    if 0 < value < 0.001:
        return f"{100 * value:.2g} %"
    if 0.9995 <= value < 1:
        return f"{min(100 * value, 99.999):.3f} %"
    return f"{100 * value:.1f} %"


def visible(text: str) -> str:
    """Text with control and other unprintable characters as signs, so that a reader sees where they are."""
    signs = {"\n": "⏎\n", "\t": "→\t", "\r": "␍"}
    return "".join(
        signs.get(c) or (c if c.isprintable() or c in "\u200d\ufe0f" else c.encode("unicode_escape").decode("ascii"))
        for c in text
    )


# What is compared side by side: where it stands in the facts, its name, how it is written.
FIGURES: tuple[tuple[tuple[str, ...], str, Any], ...] = (
    (("vocab_size",), "Vocabulary", whole),
    (("total", "bytes_per_token"), "Bytes per token", ratio),
    (("total", "characters_per_token"), "Characters per token", ratio),
    (("total", "tokens_per_1000_characters"), "Tokens per 1,000 characters", ratio),
    (("normalized_sequence_length", "total"), "Sequence length against the first (NSL)", ratio),
    (("total", "fertility"), "Tokens per word (fertility)", ratio),
    (("total", "continued_word_share"), "Words cut in two or more", percent),
    (("total", "single_token_retention_rate"), "Words of one token (STRR)", percent),
    (("vocabulary", "renyi_efficiency"), "Rényi efficiency, over V", ratio),
    (("vocabulary", "renyi_efficiency_observed"), "Rényi efficiency, over tokens seen", ratio),
    (("vocabulary", "unigram_bits_per_byte"), "Unigram bits per byte", ratio),
    (("vocabulary", "used_share"), "Vocabulary used", percent),
    (("vocabulary", "dead_tail_share"), "Dead tail", percent),
    (("total", "byte_fallback_rate"), "Byte fallback", percent),
    (("parallel", "gini"), "Gini of languages", ratio),
    (("parallel", "worst_parity"), "Worst parity against English", ratio),
    (("lossless_share",), "Documents decoded exactly", percent),
    (("speed", "encode_mb_per_second"), "Encoding, MB/s", small),
    (("speed", "decode_mb_per_second"), "Decoding, MB/s", small),
    (("speed", "load_seconds"), "Loading, s", small),
)
COLUMNS = ("", "Documents", "Bytes", "Tokens", "Bytes per token", "Characters per token", "Tokens per word", "Words cut", "One token (STRR)", "Bits per byte", "Byte fallback")  # fmt: skip


def figure(facts: dict[str, Any], place: tuple[str, ...]) -> Any:
    """A value of the facts, None where it is missing."""
    value: Any = facts
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def render(reports: list[dict[str, Any]], unlike: Sequence[dict[str, str]] = ()) -> str:
    """The page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"whole": whole, "ratio": ratio, "percent": percent, "small": small}
    first = reports[0]
    several = len(reports) > 1
    figures = [row for row in FIGURES if any(figure(facts, row[0]) is not None for facts in reports)]
    manifest = list(
        {(one["what"], one["file"], one["sha256"]): one for facts in reports for one in facts["manifest"]}.values()
    )
    tables = [(f"By {name}", _table(reports, f"by_{name}")) for name in ("language", "source", "domain", "script")]
    template = environment.from_string((HERE / "report.html").read_text(encoding="utf-8"))
    return template.render(
        css=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        first=first,
        reports=reports,
        several=several,
        honesty=HONESTY,
        unlike=unlike,
        marked={one["name"] for one in unlike},
        headline=[] if several else [(name, write(figure(first, place))) for place, name, write in figures],
        side=[(name, [write(figure(facts, place)) for facts in reports]) for place, name, write in figures],
        legend=charts.legend([(facts["name"], at) for at, facts in enumerate(reports)]),
        **_sizes(reports),
        **_costs(first),
        context_rows=_contexts(reports),
        parity_charts=_parity([facts["parallel"] for facts in reports]),
        user_parallel=_user_parallel(reports),
        columns=_columns(reports),
        tables=[(title, rows) for title, rows in tables if rows],
        counted=_counted(first),
        rank_chart=charts.rank_frequency(
            [(a, b) for a, b in first["rank_frequency"]],
            first["vocabulary"]["tokens_without_specials"],
            first["vocabulary"]["dead_below"],
            "How often each token was seen, by rank",
        ),
        length_chart=charts.lengths(
            {int(size): n for size, n in first["health"]["token_lengths"].items()}, "Tokens of the vocabulary by length"
        ),
        classes=[
            name for name in first["health"]["classes"] if any(facts["health"]["classes"][name] for facts in reports)
        ],
        glitch=first.get("glitch", {}),
        strips=_strips(reports),
        probes={
            kind: [[facts["probes"][kind][at]["tokens"] for facts in reports] for at in range(len(rows))]
            for kind, rows in first["probes"].items()
            if all(len(facts["probes"].get(kind, [])) == len(rows) for facts in reports)
        },
        metrics=METRICS,
        manifest=manifest[:MANIFEST_ROWS],
        manifest_left=max(0, len(manifest) - MANIFEST_ROWS),
    )


def _sizes(reports: list[dict[str, Any]]) -> dict[str, Any]:
    series = []
    for at, facts in enumerate(reports):
        points = [(p["vocab_size"], p["bytes_per_token"]) for p in facts["size_curve"]]
        if points:
            series.append(charts.Series(facts["name"], points, at))
        whole_one = (facts["vocab_size"], facts["total"]["bytes_per_token"])
        series.append(charts.Series(facts["name"], [whole_one], at, dots=True))
    chart = charts.curves(
        series,
        "Bytes per token against the size of the vocabulary",
        "vocabulary, tokens (logarithmic)",
        "bytes per token",
        log_x=True,
        zero=True,
    )
    return {
        "size_chart": chart,
        "size_legend": charts.legend([(facts["name"], at) for at, facts in enumerate(reports)]),
    }


def _shape(cost: dict[str, Any]) -> str:
    return f"{cost['layers']} × {cost['width']}, {cost['context']:,}"


def _costs(first: dict[str, Any]) -> dict[str, Any]:
    costs = first["costs"]
    series = []
    for at, cost in enumerate(costs):
        least = cost["best_flops_per_byte"]
        # what is several times dearer than the best only flattens the curve
        points = [(p["vocab_size"], p["flops_per_byte"] / least) for p in cost["points"]]
        shown = [(v, f) for v, f in points if f <= 2.5]
        series.append(charts.Series(_shape(cost), shown, at))
        series.append(
            charts.Series(f"best: {cost['best_vocab_size']:,}", [(cost["best_vocab_size"], 1.0)], at, dots=True)
        )
    chart = charts.curves(
        series,
        "Training FLOPs per byte against the size of the vocabulary",
        "vocabulary, tokens (logarithmic)",
        "FLOPs per byte, × the least",
        log_x=True,
    )
    return {
        "cost_chart": chart,
        "cost_legend": charts.legend(
            [(f"{_shape(c)}: best {c['best_vocab_size']:,}", at) for at, c in enumerate(costs)]
        ),
        "cost_at_end": any(cost["at_end"] for cost in costs),
        "cost_rows": [
            [
                _shape(cost),
                f"{cost['parameters'] / 1e9:.3g} B",
                whole(cost["best_vocab_size"]) + (" (largest measured)" if cost["at_end"] else ""),
                charts.short(cost["best_flops_per_byte"]),
                charts.short(cost["points"][-1]["flops_per_byte"]),
            ]
            for cost in costs
        ],
    }


def _contexts(reports: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            whole(one["context"]),
            *(ratio(facts["context"][at]["pages"]) if at < len(facts["context"]) else "–" for facts in reports),
        ]
        for at, one in enumerate(reports[0]["context"])
    ]


def _parity(found: list[dict[str, Any]]) -> list[Markup]:
    """Dot plots of parity, or of tokens per line where there is no English, in columns."""
    first = found[0]
    by_parity = first["english"] is not None
    rows: list[tuple[str, list[float | None]]] = []
    for code, row in first["languages"].items():
        values = [one["languages"].get(code, {}) for one in found]
        rows.append(
            (
                row["name"],
                [
                    v.get("parity") if by_parity else (v["tokens"] / one["lines"] if v else None)
                    for v, one in zip(values, found, strict=True)
                ],
            )
        )
    rows.sort(key=lambda row: (row[1][0] or 0, row[0]))
    axis = "tokens against English (logarithmic)" if by_parity else "tokens per line (logarithmic)"
    values = [value for _, shown in rows for value in shown if value]
    if not values:
        return []
    limits = (min(values), max(values)) if not by_parity else (min([*values, 0.9]), max([*values, 1.2]))
    return [
        charts.dot_rows(
            rows[at : at + PARITY_COLUMN],
            "Tokens by language on the same content",
            axis,
            limits,
            1.0 if by_parity else None,
        )
        for at in range(0, len(rows), PARITY_COLUMN)
    ]


def _user_parallel(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [facts["parallel_user"] for facts in reports if "parallel_user" in facts]
    if not found or len(found) < len(reports):
        return []
    return [{"title": f"{found[0]['title']}, {len(found[0]['languages'])} languages", "charts": _parity(found)}]


def _columns(reports: list[dict[str, Any]]) -> list[str]:
    if len(reports) == 1:
        return list(COLUMNS)
    return ["", "Documents", "Bytes", *(facts["name"] for facts in reports)]


def _table(reports: list[dict[str, Any]], group: str) -> list[list[str]]:
    """Rows of a table by group; with several tokenizers their bytes per token side by side."""
    rows = []
    for name, row in list(reports[0].get(group, {}).items())[:ROWS]:
        head = [name, whole(row["documents"]), whole(row["bytes"])]
        if len(reports) > 1:
            same = [facts.get(group, {}).get(name, {}).get("bytes_per_token") for facts in reports]
            rows.append([*head, *map(ratio, same)])
        else:
            cut = [percent(row["continued_word_share"]), percent(row["single_token_retention_rate"])]
            ratios = [ratio(row[key]) for key in ("bytes_per_token", "characters_per_token", "fertility")]
            last = [ratio(row.get("unigram_bits_per_byte")), percent(row.get("byte_fallback_rate"))]
            rows.append([*head, whole(row["tokens"]), *ratios, *cut, *last])
    return rows


def _counted(first: dict[str, Any]) -> list[list[str]]:
    counted = first.get("counted")
    if not counted:
        return []
    rows = [("everything", counted["total"])]
    for group in ("language", "source", "domain"):
        rows += [(f"{group}: {name}", row) for name, row in list(counted[f"by_{group}"].items())[:ROWS]]
    return [[name, whole(row["bytes"]), whole(row["tokens"]), ratio(row["bytes_per_token"])] for name, row in rows]


def _strips(reports: list[dict[str, Any]]) -> list[list[tuple[str, int, list[tuple[str, int]]]]]:
    return [
        [
            (facts["name"], strip["tokens"], [(visible(text), count) for text, count in strip["spans"]])
            for facts in reports
            if at < len(facts["strips"])
            for strip in [facts["strips"][at]]
        ]
        for at in range(len(reports[0]["strips"]))
    ]
