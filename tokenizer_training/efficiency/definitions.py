"""Every metric of the report: name, formula, unit and what it does not say. The report and the docs show this table.

T tokens, B UTF-8 bytes, C characters (code points), W words, p_i the share of token i among the T, V the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

HONESTY = (
    "These numbers are diagnostics of a tokenizer, not predictions of the quality of a model trained with it. "
    "Published correlations of compression with quality run from −0.71 to −0.996 where only the amount of training data of "
    "the tokenizer differs, and to +0.241 across 54 models; Rényi efficiency can rise while BLEU falls; over 24 models of "
    "2.6 B parameters, fertility and parity did not always predict which tokenizer was better."
)


class Metric(NamedTuple):
    """One row of the table of definitions; `field` is its key in report.json."""

    field: str
    name: str
    formula: str
    unit: str
    caveat: str


METRICS = (
    Metric(
        "bytes_per_token",
        "Bytes per token",
        "B / T",
        "bytes",
        "compares tokenizers on one text; scripts differ in bytes per character",
    ),
    Metric(
        "characters_per_token",
        "Characters per token",
        "C / T",
        "code points",
        "a code point is a letter in one script and a syllable or word in another",
    ),
    Metric(
        "tokens_per_1000_characters",
        "Tokens per 1,000 characters",
        "1000 T / C",
        "tokens",
        "what a limit or a price in tokens means for a text in characters",
    ),
    Metric(
        "fertility",
        "Fertility",
        "Σ_w |enc(w)| / W",
        "tokens per word",
        "means something only with its segmenter, on one language; a word is encoded with the space before it, as it stands in text",
    ),
    Metric(
        "continued_word_share",
        "Continued words",
        "#(w: |enc(w)| ≥ 2) / W",
        "share",
        "says nothing of how often a cut word is cut",
    ),
    Metric(
        "single_token_retention_rate",
        "Single-token retention rate (STRR)",
        "#(w: |enc(w)| = 1) / W",
        "share",
        "rises with the vocabulary; of running words, so frequent ones dominate",
    ),
    Metric(
        "normalized_sequence_length",
        "Normalised sequence length (NSL)",
        "T / T_reference",
        "ratio",
        "depends on the reference, which the report names",
    ),
    Metric(
        "renyi_efficiency",
        "Rényi efficiency",
        "log2(Σ p_i^α) / (1 − α) / log2 V, α = 2.5",
        "share",
        "over the nominal V here; `renyi_efficiency_observed` divides by log2 of the tokens seen; other tools default to α = 3",
    ),
    Metric(
        "unigram_bits_per_byte",
        "Unigram bits per byte",
        "−Σ p_i log2 p_i · T / B",
        "bits",
        "what a model that knows frequencies alone would need; grows less fair as the sample gets small against V",
    ),
    Metric(
        "bits_per_byte",
        "Model bits per byte",
        "Σ nats / (ln 2 · Σ B)",
        "bits",
        "bytes of each predicted token, 0 for special ones; compares models across tokenizers",
    ),
    Metric(
        "parity",
        "Parity",
        "T_l / T_en on parallel text",
        "ratio",
        "translations differ in length by themselves; the text is a legal one and short",
    ),
    Metric(
        "gini",
        "Gini of languages",
        "Σ_i Σ_j |c_i − c_j| / (2 n² μ), c tokens per parallel line",
        "share",
        "0: every language costs the same; depends on which languages are in the set; counted by line, since bytes hide the cost of scripts",
    ),
    Metric(
        "used_share",
        "Vocabulary used",
        "#(i: seen) / V without special tokens",
        "share",
        "falls with a smaller sample, whatever the tokenizer",
    ),
    Metric(
        "dead_tail_share",
        "Dead tail",
        "#(i: seen < k) / V without special tokens",
        "share",
        "as above; k is in the report",
    ),
    Metric(
        "unreachable",
        "Unreachable tokens",
        "enc(dec(i)) ≠ [i]",
        "tokens",
        "of the token alone: UNREACHABLE_MULTI re-encodes as several tokens, UNREACHABLE_OTHER as another one, UNDECODEABLE is no whole UTF-8, CONTINUES_WORD stands only within a word: neither can be tested alone",
    ),
    Metric(
        "byte_fallback_rate",
        "Byte fallback",
        "#(tokens that are partial UTF-8 or a byte ≥ 0x80) / T",
        "share",
        "in byte-level BPE such tokens are ordinary, and cost no more than others",
    ),
    Metric(
        "undertrained",
        "Undertrained candidates",
        "seen < k",
        "tokens",
        "candidates: the sample is not the training corpus",
    ),
    Metric(
        "glitch",
        "Glitch candidates",
        "|e_i|, and the distance of e_i from the mean of embeddings known to be unused",
        "norm",
        "needs a model; indicators only, to be verified by prompting (Land and Bartolo 2024)",
    ),
    Metric(
        "flops_per_byte",
        "Training FLOPs per byte",
        "(6N + 6Vd + 12 · layers · d · L) · T / B",
        "FLOPs",
        "N without embeddings; attention without its causal half; says what a byte costs, not what it teaches",
    ),
    Metric(
        "context_pages",
        "Context in pages",
        "L · (B / T) / 3000",
        "pages of 3,000 bytes",
        "a page holds about a third of the characters in scripts of three bytes",
    ),
    Metric(
        "encode_mb_per_second",
        "Encoding",
        "10⁶ bytes of text a second, whole call",
        "MB/s",
        "on this machine with what else ran on it; peers go through their own libraries",
    ),
    Metric("decode_mb_per_second", "Decoding", "10⁶ bytes of text a second, whole call", "MB/s", "as above"),
    Metric("load_seconds", "Loading", "from the file to the first token", "s", "as above"),
    Metric(
        "lossless_share",
        "Lossless round trip",
        "#(documents: dec(enc(x)) = x) / documents",
        "share",
        "after lone surrogates became U+FFFD, which no UTF-8 can carry",
    ),
)


def definitions_markdown() -> str:
    """The table for docs/efficiency.md."""
    lines = ["| metric | formula | unit | what it does not say |", "|---|---|---|---|"]
    for metric in METRICS:
        formula = metric.formula.replace("|", "\\|")
        lines.append(f"| {metric.name} (`{metric.field}`) | {formula} | {metric.unit} | {metric.caveat} |")
    return "\n".join(lines)
