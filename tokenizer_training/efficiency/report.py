"""tokenizer/report.html: one page, no script, no request to anywhere, light and dark."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tokenizer report</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --ink: #1d2228; --soft: #5b6570; --line: #d8dde3; --page: #ffffff; --bar: #3b6fb6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e9ee; --soft: #9aa5b1; --line: #343b44; --page: #15191e; --bar: #6ea1e6; }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, dt { color: var(--soft); } code { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem 1.5rem; }
dt { font-size: .85rem; } dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; font-size: .85rem; } th:first-child, td:first-child { text-align: left; }
.bar { display: inline-block; height: .6rem; background: var(--bar); border-radius: 2px; vertical-align: middle; }
</style>
</head>
<body>
<h1>Tokenizer</h1>
<p>{{ facts.vocab_size | whole }} tokens, measured on {{ facts.sample_bytes | whole }} of {{ facts.corpus_bytes | whole }}
bytes of the corpus. These numbers describe the tokenizer; they do not predict the quality of a model.</p>
<dl>
{% for name, value in headline %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}</dl>
{% for title, rows in tables %}
<h2>{{ title }}</h2>
<div class="wide"><table>
<thead><tr><th>{{ title[3:] }}</th><th>Documents</th><th>Bytes</th><th>Tokens</th><th colspan="2">Bytes per token</th>
<th>Characters per token</th><th>Tokens per word</th><th>Words cut</th></tr></thead>
<tbody>
{% for name, row in rows.items() %}<tr><td>{{ name }}</td><td>{{ row.documents | whole }}</td><td>{{ row.bytes | whole }}</td>
<td>{{ row.tokens | whole }}</td>
<td style="text-align: left"><span class="bar" style="width: {{ (12 * (row.bytes_per_token or 0)) | round(1) }}px"></span></td>
<td>{{ row.bytes_per_token | ratio }}</td><td>{{ row.characters_per_token | ratio }}</td><td>{{ row.fertility | ratio }}</td>
<td>{{ row.continued_word_share | percent }}</td></tr>
{% endfor %}</tbody>
</table></div>
{% endfor %}
<h2>How it was measured</h2>
<p>A word is a match of <code>{{ facts.segmenter }}</code>, encoded with the space before it. Pre-tokens:
<code>{{ facts.pattern }}</code>. R&eacute;nyi efficiency with &alpha; = {{ facts.vocabulary.renyi_alpha }} over the nominal
vocabulary. A token is in the dead tail if it was seen fewer than {{ facts.vocabulary.dead_below }} times. SHA-256 of
tokenizer.json: <code>{{ facts.tokenizer_sha256 }}</code></p>
</body>
</html>
"""


def _whole(value: int) -> str:
    return f"{value:,}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def render(facts: dict[str, Any]) -> str:
    """The page for what `efficiency.evaluate` returned."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"whole": _whole, "ratio": _ratio, "percent": _percent}
    total, use = facts["total"], facts["vocabulary"]
    headline = [
        ("Bytes per token", _ratio(total["bytes_per_token"])),
        ("Characters per token", _ratio(total["characters_per_token"])),
        ("Tokens per word (fertility)", _ratio(total["fertility"])),
        ("Words cut in two or more", _percent(total["continued_word_share"])),
        ("Vocabulary used", _percent(use["used_share"])),
        ("Dead tail", _percent(use["dead_tail_share"])),
        ("Rényi efficiency", _ratio(use["renyi_efficiency"])),
        ("Unigram bits per byte", _ratio(use["unigram_bits_per_byte"])),
        ("Documents decoded exactly", _percent(facts["lossless_share"])),
    ]
    tables = [("By language", facts["by_language"]), ("By source", facts["by_source"])]
    return environment.from_string(TEMPLATE).render(facts=facts, headline=headline, tables=tables)
