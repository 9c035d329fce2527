"""Compiled pre-tokenizers against `tokenizers` itself."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from tests.tokens_corpus import python_texts
from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.pieces import cut_runs
from tokenizer_training.vocabulary.characters import (
    CODE_POINTS,
    ask_engine,
    character_classes,
    known_normal_forms,
    normal_forms,
)
from tokenizer_training.vocabulary.patterns import CUSTOM, PATTERNS, split_rules
from tokenizer_training.vocabulary.pretokenize import (
    LONGEST_RUN,
    cuts_of,
    ends_of,
    library_pre_tokenizer,
    pretokens,
    to_nfc,
)

RULES = [split_rules(name, digits) for name in PATTERNS for digits in (None, 1, 2, 3)]
LIBRARY = [library_pre_tokenizer(rules) for rules in RULES]
NASTY = [
    *"aAbZsStTdDmMrRvVeElL'’ſKǅʰª漢字ßéйЙкא\u0301\u0300\u0903\u200d\ufe0f0123４５²Ⅷ \t\n\r\x0b\x0c\x85\xa0\u2003",
    *'\u2028\u2029\u3000!?./-_#$"“—👍🏽👨\x00\ufffd\U000e0100\U0010ffff\u0378\x1c\u200b\u180e\ufeff',
    *["\r\n", "  ", "'s", "'LL", "'re", "\n\n", " '", "हिन्दी", "ภาษาไทย", "한국어"],
]


LANGUAGES = {  # the first sentence of the Universal Declaration of Human Rights, and code
    "en": "All human beings are born free and equal in dignity and rights. They're 1,948 words; isn't that a lot?",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.\n\nStraße 12345, ÄÖÜ, GROẞ.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. L'homme qu’il est\u00a0: «\u202f1\u202f»",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "vi, decomposed": unicodedata.normalize("NFD", "Tất cả mọi người sinh ra đều được tự do và bình đẳng."),
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах. Объём — 12,5%.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. שָׁלוֹם",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق، ١٢٣٤٥ شيئًا.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। १२३४",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும் சமமானவர்கள்.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ๑๒๓๔",
    "my": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း",
    "km": "មនុស្សទាំងអស់ កើតមកមានសេរីភាព និងសមភាព ក្នុងផ្នែកសេចក្ដីថ្លៃថ្នូរ",
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით. ᲥᲐᲠᲗᲣᲚᲘ",
    "am": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።፩፪፫",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心（1948年12月10日）。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。ﾊﾝｶｸ　全角ＡＢＣ１２３",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "emoji": "👨‍👩‍👧‍👦 🏳️‍🌈👍🏽 #️⃣ ☕️ ½ ² Ⅷ ㍿",
    "code": "".join(python_texts(4)),
}


def by_library(split, text: str) -> list[str]:
    return [text[a:b] for _, (a, b) in split.pre_tokenize_str(text)]


def same(text: str) -> None:
    for rules, split in zip(RULES, LIBRARY, strict=True):
        assert pretokens(text, rules) == by_library(split, text), rules


def test_the_table_of_classes_is_the_engine_s():
    assert np.array_equal(ask_engine(), character_classes())


def test_the_table_of_normal_forms_is_python_s():
    assert np.array_equal(normal_forms(), known_normal_forms()) or unicodedata.unidata_version != "15.0.0"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(NASTY), max_size=40).map("".join))
def test_nasty_texts(text):
    same(text)


def test_characters_of_every_class_in_every_order():
    generator = random.Random(3)
    classes = character_classes()
    members = [np.flatnonzero(classes == number) for number in range(11)]
    members = [codes[(codes < 0xD800) | (codes >= 0xE000)] for codes in members]
    for _ in range(60):
        few = [chr(generator.choice(members[generator.randrange(11)])) for _ in range(6)]
        same("".join(generator.choices([*few, "'", "s", " "], k=60)))


@pytest.mark.parametrize("name", LANGUAGES)
def test_real_languages(name):
    same(LANGUAGES[name])


@pytest.mark.parametrize("name", ["gpt2", "llama3", "o200k"])
@pytest.mark.parametrize("context", ["a'{}x", "'{}e", "'l{} "])
def test_every_character_after_an_apostrophe(name, context):
    """Case folding has surprises: the long s is an s here, the Kelvin sign no part of any contraction."""
    rules = split_rules(name)
    split = library_pre_tokenizer(rules)
    codes = [*range(0xD800), *range(0xE000, 0x3000 + 0x10000, 7), *range(0xFB00, 0xFB10)]
    text = "".join(context.format(chr(code)) for code in codes)
    assert pretokens(text, rules, longest=1 << 40) == by_library(split, text)


def test_nanochat_s_own_spelling_gives_the_same():
    published = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
        r"|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(published), behavior="isolated")
    generator = random.Random(5)
    for _ in range(300):
        text = "".join(generator.choices(NASTY, k=60))
        assert pretokens(text, split_rules("nanochat")) == by_library(split, text)


def test_digits_replace_the_group_of_the_pattern():
    assert pretokens("12345 a", split_rules("llama3", 2)) == ["12", "34", "5", " a"]
    assert pretokens("12345", split_rules("tekken", 3)) == ["123", "45"]
    assert pretokens(" 12345", split_rules("gpt2", 2)) == [" 12", "34", "5"]
    assert split_rules("o200k", 1).regex != PATTERNS["o200k"]
    assert split_rules("gpt2").regex == PATTERNS["gpt2"]


@pytest.mark.parametrize("text", ["", "\0", "a", " ", "\n", "'", "\ufffd" * 3])
def test_small_texts(text):
    same(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lama3",), "expected one of gpt2"),
        (("llama3", 4), "expected 1, 2, 3 or null"),
        (("llama3", None, "a+"), 'only with pattern "custom"'),
        ((CUSTOM,), "needs an expression"),
        ((CUSTOM, 2, "a+"), "leave digits null"),
        ((CUSTOM, None, "(a"), "unmatched parenthesis"),
    ],
)
def test_wrong_rules_are_named(arguments, message):
    with pytest.raises(TokenizerError, match=regex.escape(message)):
        split_rules(*arguments)


def test_custom_expressions_are_run_by_the_library():
    rules = split_rules(CUSTOM, None, r"\p{L}+|\p{N}{2}")
    assert pretokens("日本 abc123--é\u0301x", rules) == ["日本", " ", "abc", "12", "3--", "é", "\u0301", "x"]
    llama = split_rules(CUSTOM, None, PATTERNS["llama3"])
    generator = random.Random(7)
    for longest in (8, 20, LONGEST_RUN):
        for _ in range(60):
            text = "".join(generator.choices(NASTY, k=80))
            assert pretokens(text, llama, longest) == pretokens(text, split_rules("llama3"), longest)


KINDS = (r"[\p{L}\p{M}]", r"\p{N}", r"\s", r"[^\s\p{L}\p{N}]")


def cuts_by_the_rule(text: str, longest: int) -> list[int]:
    """The rule of pretokenize.py, literally."""
    cuts = set()
    for kind in KINDS:
        for run in regex.finditer(f"{kind}+", text):
            start, size = len(text[: run.start()].encode()), len(run.group().encode())
            for cut in range(start + longest, start + size, longest):
                cuts.add(len(text.encode()[:cut].decode("utf-8", "ignore").encode()))
    return sorted(cuts)


def test_endless_runs_are_cut_by_the_rule():
    generator = random.Random(1)
    found = 0
    for _ in range(1500):
        longest = generator.choice([8, 25, 90])
        parts = ["a", "é", "1", " ", "\n", ".", ",", "ก", "\u0301", "😀"]
        text = "".join(generator.choice(parts) * generator.choice([1, 2, 7, 8, 9, 20]) for _ in range(12))
        cuts = cuts_by_the_rule(text, longest)
        assert cuts_of(text, longest) == cuts
        assert "".join(cut_runs(text, longest)) == text and len(cut_runs(text, longest)) == len(cuts) + 1
        found += bool(cuts)
    assert 300 < found < 1200


@pytest.mark.parametrize("rules", RULES[::4], ids=list(PATTERNS))
def test_pretokens_are_bounded_and_those_of_the_pieces(rules):
    generator = random.Random(2)
    split = library_pre_tokenizer(rules)
    for _ in range(60):
        text = "".join(generator.choice(NASTY) * generator.choice([1, 1, 3, 70]) for _ in range(30))
        ours = pretokens(text, rules, 32)
        assert ours == [token for piece in cut_runs(text, 32) for token in by_library(split, piece)]
        assert max(len(token.encode()) for token in ours) <= 2 * 32 + 8


@pytest.mark.parametrize("run", ["a", " ", "7", "\n", "\u0301", "!\u0301", "漢", "aA", " \n"])
def test_a_megabyte_without_an_end(run):
    text = "x" + run * 300_000 + "y"
    for rules in RULES[::4]:
        ends = ends_of(text, rules)
        assert ends[-1] == len(text.encode()) and np.diff(ends, prepend=0).max() <= 2 * LONGEST_RUN + 8


def test_nfc_is_the_library_s():
    library = normalizers.NFC()
    generator = random.Random(4)
    marks = [chr(code) for code in range(0x300, 0x370)]
    letters = [
        *"aeioucAEé한",
        "\u1100",
        "\u1161",
        "\u11a8",
        "क",
        "\u093c",
        "\u0344",
        "\u212b",
        "\u0958",
        "\u064e",
        "\u0651",
    ]
    for _ in range(3000):
        text = "".join(generator.choices([*letters, generator.choice(marks), " "], k=8))
        assert to_nfc(text) == library.normalize_str(text)
    for text in LANGUAGES.values():
        assert to_nfc(text) == library.normalize_str(text)


def test_plain_characters_are_left_alone_by_the_library_s_nfc():
    forms = known_normal_forms()
    text = "".join(map(chr, np.flatnonzero(forms == 0).tolist()))
    assert normalizers.NFC().normalize_str(text) == text
    for code in np.flatnonzero(forms == 1).tolist():
        for before in "aoAก":
            assert normalizers.NFC().normalize_str(before + chr(code) + "x") == before + chr(code) + "x"
    assert len(forms) == CODE_POINTS
