"""The knobs of supervised fine-tuning. No torch here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from training.knobs import knob
from training.tuning.config import TuneConfig

# knobs that say how rows become tokens: of no use to a token dataset, which is packed already
OF_ROWS = ("template", "add_tokens", "too_long", "bad_rows", "packing")


class SftConfig(TuneConfig):
    """Fine-tuning on conversations, instructions with answers, or plain text."""

    batch_rows: int = knob(8, "packed rows in one optimizer step, over all processes", ge=1)
    micro_batch_rows: int = knob(
        8, "packed rows in one forward pass of one process; only memory and speed depend on it", ge=1
    )
    sequence_length: int | None = knob(None, "tokens of a packed row; by default the model's context", ge=2)
    eval_rows: int = knob(128, "packed rows of a validation, at most", ge=1)
    template: Literal["gristmill", "chatml", "llama3", "zephyr", "alpaca"] | None = knob(
        None, "the chat template; by default the model folder's own"
    )
    add_tokens: bool = knob(
        False, "special tokens that the template needs and the tokenizer lacks are added, and the embeddings grow"
    )
    too_long: Literal["truncate", "drop", "split"] = knob(
        "truncate", "an example longer than a row: its beginning, nothing of it, or all of it in several pieces"
    )
    bad_rows: Literal["error", "drop"] = knob(
        "error", "a row that is no example, or has no token to train on, ends the run, or is left out and counted"
    )
    packing: bool = knob(True, "several examples in a row, which do not see each other; otherwise one a row")
    neftune: float = knob(
        0.0, "noise on the embeddings, by the square root of an example's size; 5 to 15", "Jain et al. 2023", ge=0
    )

    @model_validator(mode="after")
    def _tokens_are_those_of_a_template(self) -> Any:
        if self.add_tokens and self.template is None:
            raise ValueError("add_tokens needs template: it adds the tokens of a template that you name")
        return self
