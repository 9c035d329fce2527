"""The special tokens, in the order of their ids, and the chat template that uses them."""

from __future__ import annotations

END_OF_DOCUMENT = "<|endoftext|>"  # also the beginning of a text and the padding
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<|tool|>"}
END_OF_TURN = "<|end|>"
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(64))

SPECIAL_TOKENS = (END_OF_DOCUMENT, *ROLES.values(), END_OF_TURN, *RESERVED)

# A turn is its role token, the content as it is, and the end token. `generation` marks what the assistant writes, the
# end token included, so that transformers' `return_assistant_tokens_mask` gives the positions to train on.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- elif message['role'] in ['system', 'user', 'tool'] -%}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- else -%}
{{- raise_exception("unknown role '" + message['role'] + "': expected system, user, assistant or tool") -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""
