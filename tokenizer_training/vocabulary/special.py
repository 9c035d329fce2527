"""The special tokens, in the order of their ids, and the chat template that uses them."""

from __future__ import annotations

END_OF_DOCUMENT = "<|endoftext|>"  # also the beginning of a text and the padding
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<|tool|>"}
END_OF_TURN = "<|end|>"
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(64))

SPECIAL_TOKENS = (END_OF_DOCUMENT, *ROLES.values(), END_OF_TURN, *RESERVED)  # of every tokenizer, with the first ids

# By knob, after those above; the names that open models use (StarCoder 2 and Qwen 2.5 Coder; Hermes and Qwen for tools)
FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
TOOLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


def padding_tokens(size: int, multiple: int | None) -> list[str]:
    """Reserved tokens that make a vocabulary of `size` a multiple of `multiple`; they get the last ids."""
    missing = -size % multiple if multiple else 0
    return [f"<|reserved_{len(RESERVED) + number}|>" for number in range(missing)]


# How an assistant's calls of tools are written, in every chat template that this program knows: JSON between the tags of `TOOLS`, which
# are plain text where the tokenizer lacks them. `arguments` may be JSON already, as OpenAI's are.
CALLS = """\
{%- macro calls(message) -%}
{%- for call in message['tool_calls'] or [] -%}
{%- set function = call['function'] or call -%}
{{- '<tool_call>{"name": ' + function['name'] | tojson + ', "arguments": ' -}}
{%- if function['arguments'] is string -%}{{- function['arguments'] -}}
{%- else -%}{{- function['arguments'] | tojson -}}{%- endif -%}
{{- '}</tool_call>' -}}
{%- endfor -%}
{%- endmacro -%}
"""

# What tools there are stands at the end of the system's turn, which is made if there is none
SYSTEM = """\
{%- set system = '' -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] -%}
{%- endif -%}
{%- if tools -%}
{%- set listed = namespace(text='Tools:') -%}
{%- for tool in tools -%}{%- set listed.text = listed.text + '\\n' + tool | tojson -%}{%- endfor -%}
{%- set system = system + ('\\n\\n' if system else '') + listed.text -%}
{%- endif -%}
"""

# A turn is its role token, the content as it is, and the end token. `generation` marks what the assistant writes, the
# end token included, so that transformers' `return_assistant_tokens_mask` gives the positions to train on.
CHAT_TEMPLATE = (
    CALLS
    + SYSTEM
    + """\
{%- if tools and messages[0]['role'] != 'system' -%}{{- '<|system|>' + system + '<|end|>' -}}{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}{{- (message['content'] or '') + calls(message) + '<|end|>' -}}{%- endgeneration -%}
{%- elif message['role'] == 'system' and loop.first -%}
{{- '<|system|>' + system + '<|end|>' -}}
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
)
