"""The model card of a trained classifier: README.md beside it, from the same facts as report.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def card(report: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    knobs, held_out = report["knobs"], report["held_out"]
    low, high = held_out["roc_auc_95"]
    calibrated = held_out["calibration"]
    model = report["model"]
    return "\n".join(
        [
            f"# {report['name']}",
            "",
            f"A fastText classifier with the labels `{knobs['label']}` and `{knobs['ordinary_label']}`: `{model['file']}`, "
            f"{model['bytes']:,} bytes, SHA-256 `{model['sha256']}`. Its score is the probability of `{knobs['label']}`.",
            "",
            "```yaml",
            f"- quality.classifier: {{model: PATH/{model['file']}, threshold: 0.5}}",
            "```",
            "",
            f"`{model['file']}.json` says how texts are prepared for it; keep it beside the model.",
            "",
            "It tells texts like those of one corpus from texts like those of the other, by words and word sequences, and nothing else: subject "
            "and source count as much as quality where the corpora differ in them.",
            "",
            "## Corpora",
            "",
            *_corpora(report["corpora"]),
            f"Split by the hash of each prepared text (seed {knobs['seed']}): equal texts are used once, never on both sides of the split; "
            "texts of both corpora are left out.",
            "",
            "## Held-out figures",
            "",
            f"{held_out['documents']['good']:,} good and {held_out['documents']['ordinary']:,} ordinary documents that it was not trained on.",
            "",
            f"- ROC AUC {held_out['roc_auc']:.4f} (95% interval {low:.4f} to {high:.4f})",
            f"- Brier score {calibrated['brier']:.4f}, expected calibration error {calibrated['expected_calibration_error']:.4f}",
            "",
            *_table(
                ("threshold", "good kept", "ordinary kept", "precision", "recall"),
                [list(row.values()) for row in held_out["thresholds"]],
            ),
            "",
            "Precision is for as many good and ordinary documents as were held out; in another mixture it is another.",
            "",
            *_table(
                ("score from", "to", "documents", "mean score", "share good"),
                [list(row.values()) for row in calibrated["reliability"]],
            ),
            "",
            "## Knobs and versions",
            "",
            *_table(("knob", "value"), list(knobs.items())),
            "",
            ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
            "",
        ]
    )


def _corpora(corpora: Mapping[str, Any]) -> list[str]:
    lines = []
    for side, facts in corpora.items():
        lines += [
            f"**{side}**: {facts['read']:,} documents read, {facts['train']:,} trained on, {facts['held_out']:,} held out, "
            f"{facts['empty']:,} without words, {facts['in_both']:,} left out because both corpora have them.",
            "",
        ]
        rows = []
        for corpus in facts["corpora"]:
            licence = corpus.get("licence", "not stated")
            rows += [[one["file"], one["bytes"], one["sha256"], licence] for one in corpus["files"]]
        lines += [*_table(("file", "bytes", "SHA-256", "licence"), rows), ""]
    return lines


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    def cell(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:g}"
        return str(value).replace("|", "\\|")

    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(cell(value) for value in row)} |" for row in rows),
    ]
