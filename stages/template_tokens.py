"""Markers by which chat templates structure a dialogue: in a text they are the wreck of a conversion, or speak in another role.

ChatML, Llama 2 and 3, Gemma, DeepSeek, Phi, harmony, and ours.
"""

from __future__ import annotations

import re

_NAMES = (
    "im_start|im_end|im_sep|endoftext|endofprompt|begin_of_text|end_of_text|eot_id|eom_id|start_header_id|end_header_id|python_tag|"
    "system|user|assistant|tool|end|start|message|channel|return|call|fim_prefix|fim_middle|fim_suffix"
)
# Each with what a text in small letters must hold for it to be looked for.
PATTERNS: tuple[tuple[str, str], ...] = (
    ("|>", rf"<\|(?:{_NAMES})\|>"),
    ("｜>", r"<｜(?:begin▁of▁sentence|end▁of▁sentence|user|assistant|tool)｜>"),
    ("inst]", r"\[/?inst\]"),
    ("sys>>", r"<</?sys>>"),
    ("_of_turn>", r"<(?:start|end)_of_turn>"),
)
TOKEN = re.compile("|".join(pattern for _, pattern in PATTERNS), re.IGNORECASE)
