"""Several tokenizers on the same text, and the refusal to compare what is not alike."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizer_training.config import TokenizerError
from tokenizer_training.efficiency.measure import FORMAT, measure
from tokenizer_training.efficiency.metrics import ratio
from tokenizer_training.efficiency.parallel import Parallel, measure_parallel
from tokenizer_training.efficiency.peers import distinct_names, open_peer
from tokenizer_training.efficiency.sample import Sample

GROUPS = ("by_language", "by_source", "by_domain", "by_script")


def read_facts(path: Path) -> dict[str, Any]:
    """A saved report.json of one tokenizer. Raises `TokenizerError` for anything else."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise TokenizerError(f"{path}: format {facts['format']}; expected {FORMAT}, so run `evaluate` again")
        if "tokenizers" in facts:
            raise TokenizerError(f"{path}: a comparison of several tokenizers; expected a report of one")
        facts["total"]["bytes_per_token"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TokenizerError(f"{path}: not a report.json of `evaluate` ({type(error).__name__}: {error})") from None
    return facts  # type: ignore[no-any-return]


def is_report(given: str) -> bool:
    """Whether an argument names a saved report and not a vocabulary."""
    path = Path(given)
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"tokenizer_sha256"' in file.read(4096)


def compare(
    given: Sequence[str],
    sample: Sample | None,
    *,
    pattern: str | None = None,
    parallel: Parallel | None = None,
    timed: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """Facts of each tokenizer (`open_peer`) or saved report, the first being the reference of the sequence lengths.

    `options` are those of `measure`. Raises `TokenizerError` where a tokenizer is to be measured and there is no sample.
    """
    saved = {place: read_facts(Path(one)) for place, one in enumerate(given) if is_report(one)}
    if sample is None and len(saved) < len(given):
        missing = next(one for place, one in enumerate(given) if place not in saved)
        raise TokenizerError(f"{missing}: a tokenizer, so there must be text to measure it on: --documents PATH")
    found = []
    peers = []
    for place, one in enumerate(given):
        if place in saved:
            continue
        began = time.perf_counter()
        peer = open_peer(one, pattern)
        peer.encode("a")
        peers.append((place, peer, time.perf_counter() - began))
    distinct_names([peer for _, peer, _ in peers])
    for _, peer, seconds in peers:
        assert sample is not None
        facts = measure(peer, sample, timed=seconds if timed else None, **options)
        if parallel is not None:
            facts["parallel_user"] = measure_parallel(peer, parallel)
        found.append(facts)
    fresh = iter(found)
    everything = [copy.deepcopy(saved[place]) if place in saved else next(fresh) for place in range(len(given))]
    taken: set[str] = set()
    for facts in everything:
        base, number = facts["name"], 2
        while facts["name"] in taken:
            facts["name"], number = f"{base} ({number})", number + 1
        taken.add(facts["name"])
    return relate(everything)


def relate(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each report with its normalised sequence lengths against the first."""
    reference = reports[0]
    for facts in reports:
        lengths: dict[str, Any] = {
            "reference": reference["name"],
            "total": ratio(facts["total"]["tokens"], reference["total"]["tokens"]),
        }
        for group in GROUPS:
            common = reference.get(group, {})
            lengths[group] = {
                name: ratio(row["tokens"], common[name]["tokens"])
                for name, row in facts.get(group, {}).items()
                if name in common
            }
        facts["normalized_sequence_length"] = lengths
    return reports


def unlike(reports: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What makes reports incomparable with the first: name of the tokenizer, and the reason in words."""
    first = reports[0]
    found = []
    for facts in reports[1:]:
        for key, what in (("sample_sha256", "another corpus or sample"), ("segmenter", "another segmenter of words")):
            if facts[key] != first[key]:
                found.append(
                    {
                        "name": facts["name"],
                        "reason": f"measured on {what} than {first['name']}: evaluate both again with one setting",
                    }
                )
    settings = [facts["settings"] for facts in reports]
    if len({setting["prefix_space"] for setting in settings}) > 1:
        found += [
            {"name": facts["name"], "reason": "puts a space in front of every text, which others do not"}
            for facts in reports
            if facts["settings"]["prefix_space"]
        ]
    if len({tuple(setting["losses"]) for setting in settings}) > 1:
        found += [
            {
                "name": facts["name"],
                "reason": f"does not give back {', '.join(facts['settings']['losses'])} "
                f"(normalisation: {facts['settings']['normalization']}), so its tokens carry less than the text",
            }
            for facts in reports
            if facts["settings"]["losses"]
        ]
    return found


def check_alike(reports: Sequence[dict[str, Any]], allow: bool) -> list[dict[str, str]]:
    """What is unlike, marked in the report if allowed, else a `TokenizerError` with every reason."""
    found = unlike(reports)
    if found and not allow:
        reasons = "; ".join(f"{one['name']}: {one['reason']}" for one in found)
        raise TokenizerError(
            f"refusing to compare unlike settings. {reasons}. Leave these out, or --allow-unlike marks them"
        )
    return found
