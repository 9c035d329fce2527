"""Chat templates by name, and the sandboxed Jinja in which any template runs, with what transformers gives to templates.

`{% generation %}` encloses what the assistant writes, the token that ends its turn included. Here such a block comes out
between two marks (Unicode noncharacters), from which `format.py` knows the positions to train on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from tokenizer_training.vocabulary.special import CALLS, CHAT_TEMPLATE, END_OF_TURN, ROLES, SYSTEM

# Noncharacters, "intended for process-internal uses" (Unicode 16, section 23.7): around a block, and inside a spelling
OPEN, CLOSE, BREAK = "\ufdd0", "\ufdd1", "\ufdd2"

CHATML = (
    CALLS
    + SYSTEM
    + """\
{%- if tools and messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- (message['content'] or '') + calls(message) + '<|im_end|>' -}}{%- endgeneration -%}
{{- '\\n' -}}
{%- elif message['role'] == 'system' and loop.first -%}
{{- system + '<|im_end|>\\n' -}}
{%- else -%}
{{- message['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
)

# Results of tools go by the role `ipython`
LLAMA3 = (
    CALLS
    + SYSTEM
    + """\
{%- macro header(role) -%}
{{- '<|start_header_id|>' + ('ipython' if role == 'tool' else role) + '<|end_header_id|>\\n\\n' -}}
{%- endmacro -%}
{{- '<|begin_of_text|>' -}}
{%- if tools and messages[0]['role'] != 'system' -%}{{- header('system') + system + '<|eot_id|>' -}}{%- endif -%}
{%- for message in messages -%}
{{- header(message['role']) -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- (message['content'] or '') | trim + calls(message) + '<|eot_id|>' -}}{%- endgeneration -%}
{%- elif message['role'] == 'system' and loop.first -%}
{{- system | trim + '<|eot_id|>' -}}
{%- else -%}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- header('assistant') -}}
{%- endif -%}
"""
)

# Its roles are plain text in its own tokenizer, one token each in ours
ZEPHYR = (
    CALLS
    + SYSTEM
    + """\
{%- if tools and messages[0]['role'] != 'system' -%}{{- '<|system|>\\n' + system + eos_token + '\\n' -}}{%- endif -%}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- (message['content'] or '') + calls(message) + eos_token -}}{%- endgeneration -%}
{{- '\\n' -}}
{%- elif message['role'] == 'system' and loop.first -%}
{{- system + eos_token + '\\n' -}}
{%- else -%}
{{- message['content'] + eos_token + '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\\n' -}}
{%- endif -%}
"""
)

# Plain text but for the end of an answer. Alpaca's own opening sentence is the caller's system message
ALPACA = (
    CALLS
    + SYSTEM
    + """\
{%- if system -%}{{- system + '\\n\\n' -}}{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '### Response:\\n' -}}
{%- generation -%}{{- (message['content'] or '') + calls(message) + eos_token -}}{%- endgeneration -%}
{{- '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'tool' -%}
{{- '### Input:\\n' + message['content'] + '\\n\\n' -}}
{%- elif not loop.first -%}
{{- message['content'] + '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '### Response:\\n' -}}
{%- endif -%}
"""
)


@dataclass(frozen=True)
class NamedTemplate:
    """A template that this program brings: the Jinja text, and the special tokens without which it means nothing."""

    text: str
    special: tuple[str, ...]  # besides the tokenizer's own eos_token, where the template uses that


TEMPLATES = {
    "gristmill": NamedTemplate(CHAT_TEMPLATE, (*ROLES.values(), END_OF_TURN)),
    "chatml": NamedTemplate(CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama3": NamedTemplate(LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "zephyr": NamedTemplate(ZEPHYR, ()),
    "alpaca": NamedTemplate(ALPACA, ()),
}


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: puts the block between OPEN and CLOSE."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a call of `_marked` with its content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Macro) -> str:
        return f"{OPEN}{caller()}{CLOSE}"


@lru_cache(maxsize=64)
def compile_template(text: str) -> jinja2.Template:
    """A template ready to render, in a sandbox. Raises `jinja2.TemplateSyntaxError`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    environment.globals["dict"] = _dict
    environment.globals["namespace"] = _Namespace
    return environment.from_string(text)


def marks_generation(text: str) -> bool:
    """Whether a template says what the assistant writes."""
    return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", text) is not None


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without Jinja's escapes for HTML. Our marks stay what they are, also where all else becomes ASCII."""
    made = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    escape: Callable[[re.Match[str]], str] = lambda found: json.dumps(found[0])[1:-1]  # noqa: E731
    return re.sub(rf"[^\x00-\x7f{OPEN}{CLOSE}{BREAK}]", escape, made) if ensure_ascii else made


def _dict(*values: Any, **named: Any) -> dict[Any, Any]:
    """`dict()` as a plain function, whose attributes lead nowhere."""
    return dict(*values, **named)


class _Namespace(Namespace):
    """Jinja's, without names that begin with an underscore: a template is foreign code."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a chat template sets {name}")
        super().__setitem__(name, value)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
