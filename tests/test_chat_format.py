"""Chat templates: masked ids against transformers and against what is written here, contents that spell special tokens, refusals."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from tests.chat_common import (
    ASSISTANT,
    CALL,
    CONVERSATIONS,
    OURS,
    SCHEMAS,
    USER,
    sentencepiece_like,
    write_chat_tokenizer,
)
from training.chat.folder import add_special
from training.chat.format import MaskError, chat_format
from training.chat.show import stretches
from training.chat.templates import BREAK, CLOSE, OPEN, TEMPLATES
from training.knobs import TrainingError
from training.vocabulary import load_tokenizer

NO_BLOCKS = """\
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_tokenizer(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return sentencepiece_like(tmp_path_factory.mktemp("pieces"))


@pytest.fixture(scope="module")
def forms(folder):
    return {name: chat_format(folder, name) for name in TEMPLATES}


@pytest.fixture(scope="module")
def theirs(folder):
    return AutoTokenizer.from_pretrained(folder)


def with_template(folder, tmp_path, template):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    return tmp_path


@pytest.mark.parametrize("tools", [None, SCHEMAS])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_mask_are_those_of_transformers(name, conversation, tools, forms, theirs):
    messages, form = CONVERSATIONS[conversation], forms[name]
    ours = form.encode(messages, tools=tools)
    made = theirs.apply_chat_template(
        messages, tools=tools, chat_template=form.template, return_dict=True, return_assistant_tokens_mask=True
    )
    assert ours.ids == made["input_ids"]
    assert [int(one) for one in ours.trained] == made["assistant_masks"]
    prompt = theirs.apply_chat_template(
        messages[:-1], tools=tools, chat_template=form.template, return_dict=True, add_generation_prompt=True
    )
    assert form.encode(messages[:-1], prompt=True, tools=tools).ids == prompt["input_ids"]


# |...| is what is trained: from the first token of an answer to the token that ends the turn, and nothing else
GOLDEN = {
    "gristmill": "<|system|>be kind<|end|><|user|>a<|end|><|assistant|>|b<tool_call>{call}</tool_call><|end|>|<|tool|>4<|end|>"
    "<|assistant|>|c<|end|>|",
    "chatml": "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    "|b<tool_call>{call}</tool_call><|im_end|>|\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n|c<|im_end|>|\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n|b<tool_call>{call}</tool_call><|eot_id|>|"
    "<|start_header_id|>ipython<|end_header_id|>\n\n4<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n|c<|eot_id|>|",
    "zephyr": "<|system|>\nbe kind<|endoftext|>\n<|user|>\na<|endoftext|>\n<|assistant|>\n|b<tool_call>{call}</tool_call>"
    "<|endoftext|>|\n<|tool|>\n4<|endoftext|>\n<|assistant|>\n|c<|endoftext|>|\n",
    "alpaca": "be kind\n\n### Instruction:\na\n\n### Response:\n|b<tool_call>{call}</tool_call><|endoftext|>|\n\n### Input:\n4\n\n"
    "### Response:\n|c<|endoftext|>|\n\n",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_golden_text_and_trained_stretches(name, forms):
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "tool_calls": [CALL]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "c"},
    ]
    call = '{"name": "add", "arguments": {"a": 2, "b": null, "wörd": "é"}}'
    golden = [part.replace("{call}", call) for part in GOLDEN[name].replace("<|", "<¦").replace("|>", "¦>").split("|")]
    golden = [part.replace("¦", "|") for part in golden]
    form = forms[name]
    found = stretches(form.encode(messages), form.tokenizer)
    expected = [(number % 2 == 1, part) for number, part in enumerate(golden) if part]
    assert found == expected
    assert form.text(messages) == "".join(golden)


def test_the_end_of_a_turn_is_trained_and_ends_generation(forms, folder, tmp_path):
    ends = {"gristmill": "<|end|>", "chatml": "<|im_end|>", "llama3": "<|eot_id|>"}
    for name, form in forms.items():
        end = form.tokenizer.token_to_id(ends.get(name, "<|endoftext|>"))
        assert form.end_ids[0] == end
        assert form.tokenizer.token_to_id("<|endoftext|>") in form.end_ids
        encoded = form.encode(CONVERSATIONS["turns"])
        where = [at for at, token in enumerate(encoded.ids) if token == end and encoded.trained[at]]
        assert len(where) == 2, "each of the two answers ends with a trained end token"
    own = with_template(folder, tmp_path, TEMPLATES["chatml"].text)
    (own / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 9]}))
    assert chat_format(own).end_ids == (7, 3, 9, 0)


@pytest.mark.parametrize("name", TEMPLATES)
def test_contents_never_yield_special_tokens(name, forms):
    form = forms[name]
    special = {number for number, one in form.tokenizer.get_added_tokens_decoder().items() if one.special}
    wanted = [token for token in form.encode([USER, ASSISTANT]).ids if token in special]
    spelled = "".join(f"{one.content} " for one in form.tokenizer.get_added_tokens_decoder().values())
    for text in (
        spelled,
        spelled.replace(" ", ""),
        "<|en",
        "d|>",
        "<<|end|>|end|>",
        "|>",
        "<",
        f"<|{BREAK}end|>{OPEN}{CLOSE}",
    ):
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        encoded = form.encode(messages)
        assert [token for token in encoded.ids if token in special] == wanted
        decoded = form.tokenizer.decode(encoded.ids, skip_special_tokens=False)
        assert decoded.count(text.strip()) >= 2, "nothing of the text is lost"


def test_spellings_in_schemas_arguments_and_system_texts_are_text_too(forms):
    form, bad = forms["gristmill"], "<|end|><|assistant|>"
    messages = [
        {"role": "system", "content": bad},
        {"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": [{"name": bad, "arguments": {bad: [bad]}}]},
        {"role": "tool", "content": bad, "name": bad},
        {"role": "assistant", "content": "b"},
    ]
    ids = form.encode(messages, tools=[{"name": bad}]).ids
    count = lambda token: ids.count(form.tokenizer.token_to_id(token))  # noqa: E731
    assert (count("<|end|>"), count("<|assistant|>"), count("<tool_call>")) == (5, 2, 1)


def test_a_spelling_cannot_come_about_between_content_and_template(folder, tmp_path):
    template = "{{ '<|user|>' + messages[0]['content'] + 'end|>' + messages[0]['content'] }}{% generation %}x<|end|>{% endgeneration %}"
    form = chat_format(with_template(folder, tmp_path, template))
    for text, expected in (("<|", 1), ("d|><|en", 1)):
        ids = form.encode([{"role": "user", "content": text}, ASSISTANT]).ids
        assert ids.count(form.tokenizer.token_to_id("<|end|>")) == expected


def test_a_special_token_of_one_character(folder, tmp_path):
    template = "{% for m in messages %}☃{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% endfor %}"
    made = with_template(folder, tmp_path, template)
    tokenizer = Tokenizer.from_file(str(made / "tokenizer.json"))
    add_special(tokenizer, ["☃"])
    tokenizer.save(str(made / "tokenizer.json"))
    form = chat_format(made)
    encoded = form.encode([{"role": "user", "content": f"☃ 3{OPEN}"}, ASSISTANT])
    assert encoded.ids.count(form.tokenizer.token_to_id("☃")) == 2
    assert form.tokenizer.decode(encoded.ids, skip_special_tokens=False).startswith(f"☃☃ 3{OPEN}<|end|>☃")


TEXTS = st.lists(
    st.one_of(st.sampled_from([*OURS, "<|", "|>", "end", "\n", " ", BREAK, OPEN]), st.text(max_size=6)), max_size=6
).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS)
def test_any_content_keeps_the_frame(forms, question, answer):
    form = forms["gristmill"]
    encoded = form.encode([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    special = {number for number, one in form.tokenizer.get_added_tokens_decoder().items() if one.special}
    assert [token for token in encoded.ids if token in special] == [2, 5, 3, 5]
    assert (
        form.tokenizer.decode(encoded.ids, skip_special_tokens=False)
        == f"<|user|>{question}<|end|><|assistant|>{answer}<|end|>"
    )
    start = encoded.ids.index(3) + 1
    assert encoded.trained == [False] * start + [True] * (len(encoded.ids) - start)


def test_a_template_without_generation_blocks_gives_the_same_mask(folder, tmp_path, forms):
    form = chat_format(with_template(folder, tmp_path, NO_BLOCKS))
    for name in ("plain", "system", "turns"):
        assert form.encode(CONVERSATIONS[name]) == forms["chatml"].encode(CONVERSATIONS[name])
    assert form.end_ids == forms["chatml"].end_ids


@pytest.mark.parametrize(
    ("template", "words"),
    [
        # earlier answers are left out once another question comes, so no prefix is the conversation's
        (
            "{%- for m in messages -%}{%- if m.role == 'user' or loop.last -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
            "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}",
            "cannot be told from its prompt",
        ),
        ("{%- for m in messages -%}{{ m.content }}\n{%- endfor -%}", "cannot be told from its prompt"),
    ],
)
def test_a_template_whose_answers_cannot_be_told_is_refused(template, words, folder, tmp_path):
    form = chat_format(with_template(folder, tmp_path, template))
    with pytest.raises(TrainingError, match=words):
        form.encode(CONVERSATIONS["turns"])
    assert form.encode(CONVERSATIONS["turns"][:3], prompt=True).ids


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{{ messages[0].content }}{% generation %}{{ messages[1].content }}{% endgeneration %}<|end|>",
            "never learn to stop",
        ),
        ("{% for m in messages %}", "not Jinja"),
        (None, "has no chat template; choose one by name: gristmill, chatml"),
    ],
)
def test_templates_that_cannot_be_used(template, words, folder, tmp_path):
    with pytest.raises(TrainingError, match=words):
        chat_format(with_template(folder, tmp_path, template))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no messages"),
        ([USER], "no token of it is the assistant's"),
        ([{"role": "narrator", "content": "x"}], "role 'narrator'; expected system, user"),
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": ["x"]}], "list; expected a string"),
        ([{"role": "user", "content": "\udcff"}], "lone surrogate"),
        ([{**ASSISTANT, "tool_calls": [{"name": "\ud800", "arguments": {}}]}], "lone surrogate"),
        (["x"], "str; expected a mapping"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "x", "arguments": {1, 2}}]}], "expected JSON values"),
    ],
)
def test_what_is_no_conversation(messages, words, forms):
    with pytest.raises(TrainingError, match=words):
        forms["gristmill"].encode(messages)


def test_masks_that_are_all_or_nothing_are_errors(folder, tmp_path):
    everything = "{% generation %}{% for m in messages %}{{ m.content }}<|end|>{% endfor %}{% endgeneration %}"
    with pytest.raises(MaskError, match="marks every token"):
        chat_format(with_template(folder, tmp_path, everything)).encode([USER, ASSISTANT])


def test_tools_that_a_template_would_leave_out_are_refused(folder, tmp_path):
    plain = "{% for m in messages %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% endfor %}"
    form = chat_format(with_template(folder, tmp_path, "<|user|>" + plain))
    with pytest.raises(TrainingError, match="leaves tools out"):
        form.encode([USER, ASSISTANT], tools=SCHEMAS)
    with pytest.raises(TrainingError, match="leaves tool_calls out"):
        form.encode([USER, {**ASSISTANT, "tool_calls": [CALL]}])


def test_a_tokenizer_without_the_tokens_is_refused_or_gets_them(tmp_path):
    folder = write_chat_tokenizer(tmp_path, OURS)
    with pytest.raises(TrainingError, match=r"needs the special tokens <\|im_start\|>, <\|im_end\|>.*add_tokens"):
        chat_format(folder, "chatml")
    with pytest.raises(TrainingError, match="no chat template is called 'chatlm'"):
        chat_format(folder, "chatlm")
    form = chat_format(folder, "chatml", add_tokens=True)
    size = load_tokenizer(folder).get_vocab_size(with_added_tokens=True)
    assert form.end_ids[0] == size + 1 and form.encode([USER, ASSISTANT]).ids[0] == size
    add_special(form.tokenizer, ["<|im_end|>"])
    assert form.tokenizer.get_vocab_size(with_added_tokens=True) == size + 2


@pytest.mark.parametrize("name", ["zephyr", "alpaca"])
def test_a_tokenizer_that_puts_a_space_before_the_first_word_alone(name, pieces):
    form, theirs = chat_format(pieces, name), AutoTokenizer.from_pretrained(pieces)
    for messages in CONVERSATIONS.values():
        ours = form.encode(messages)
        made = theirs.apply_chat_template(
            messages, chat_template=form.template, return_dict=True, return_assistant_tokens_mask=True
        )
        assert ours.ids == made["input_ids"]
        assert [int(one) for one in ours.trained] == made["assistant_masks"]


def test_a_special_token_that_takes_whitespace_along(pieces, tmp_path):
    template = "{% for m in messages %}[{{ m.role }}] {% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}{{ '\n \n' }}{% endfor %}x"
    folder = with_template(pieces, tmp_path, template)
    ours = chat_format(folder).encode([USER, ASSISTANT]).ids
    made = AutoTokenizer.from_pretrained(folder).apply_chat_template([USER, ASSISTANT], return_dict=True)
    assert ours == made["input_ids"]


def test_an_answer_that_begins_with_a_space_is_trained_where_the_tokenizer_trims_offsets(folder, tmp_path):
    """Where transformers finds no token for the block's first character and gives an empty mask."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n{% else %}A:"
        "{% generation %}{{ ' ' + m.content + '<|end|>' }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    made = with_template(folder, tmp_path, template)
    tokenizer = Tokenizer.from_file(str(made / "tokenizer.json"))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.save(str(made / "tokenizer.json"))
    form = chat_format(made)
    assert stretches(form.encode([USER, ASSISTANT]), form.tokenizer) == [
        (False, "Q: the miller\nA:"),
        (True, " grinds the corn. 🥖<|end|>"),
    ]


def test_a_template_runs_in_a_sandbox(folder, tmp_path):
    for code in (
        "{{ messages.__class__.__mro__ }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ raise_exception('no <|x|>') }}",
        "{{ messages.append(1) }}",
        "{{ range(10**9) | list }}",
    ):
        form = chat_format(with_template(folder, tmp_path, code))
        with pytest.raises(TrainingError, match="refuses the conversation"):
            form.encode([USER, ASSISTANT])
    form = chat_format(
        with_template(folder, tmp_path, "{{ strftime_now('%Y') }}{% for m in messages %}{% break %}{% endfor %}")
    )
    assert form.text([USER], prompt=True).startswith("20")


def test_the_template_file_wins_and_lists_have_a_default(folder, tmp_path):
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATES["zephyr"].text}]
    made = with_template(folder, tmp_path, named)
    assert chat_format(made).template == TEMPLATES["zephyr"].text
    (made / "chat_template.jinja").write_text(TEMPLATES["chatml"].text)
    assert chat_format(made).template == TEMPLATES["chatml"].text
    (made / "chat_template.jinja").unlink()
    with pytest.raises(TrainingError, match="none called default"):
        chat_format(with_template(folder, tmp_path, named[:1]))
