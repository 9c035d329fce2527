"""Sentences in many languages, texts that are hard to cut, and a reader of GGUF vocabularies written from llama.cpp's rules."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import regex

SENTENCES = {
    "am": "ዛሬ ጠዋት ወደ ገበያ ሄጄ ሦስት ብርቱካን ገዛሁ።",
    "ar": "ذهبتُ صباح اليوم إلى السوق واشتريت ٣ برتقالات بـ٤٫٥٠ دينار.",
    "bn": "আজ সকালে আমি বাজারে গিয়ে তিনটি কমলা কিনেছি।",
    "cs": "Dnes ráno jsem šel na trh a koupil tři pomeranče za 45 Kč.",
    "de": "Heute früh ging ich auf den Markt und kaufte für 4,50 € drei Orangen; schön groß!",
    "el": "Σήμερα το πρωί πήγα στην αγορά και αγόρασα τρία πορτοκάλια.",
    "en": "This morning I went to the market and bought three oranges; they weren't cheap, I'll admit.",
    "es": "¿Fuiste esta mañana al mercado? Compré tres naranjas por 4,50 €.",
    "fa": "امروز صبح به بازار رفتم و سه پرتقال خریدم؛ می‌خواستم بیشتر بخرم.",
    "fi": "Kävin tänä aamuna torilla ja ostin kolme appelsiinia.",
    "fr": "Ce matin, je suis allé au marché : j'ai acheté trois oranges à 4,50 €.",
    "he": "הבוקר הלכתי לשוק וקניתי שלושה תפוזים.",
    "hi": "आज सुबह मैं बाज़ार गया और तीन संतरे ख़रीदे।",
    "hy": "Այսօր առավոտյան գնացի շուկա և երեք նարինջ գնեցի։",
    "id": "Pagi ini saya pergi ke pasar dan membeli tiga buah jeruk.",
    "ja": "今朝、市場へ行ってオレンジを三つ買いました。４５０円でした。",
    "ka": "დღეს დილით ბაზარში წავედი და სამი ფორთოხალი ვიყიდე.",
    "km": "ព្រឹកនេះខ្ញុំទៅផ្សារទិញក្រូចបីផ្លែ។",
    "ko": "오늘 아침 시장에 가서 오렌지 세 개를 샀습니다.",
    "my": "ဒီမနက် ဈေးသွားပြီး လိမ္မော်သီး သုံးလုံး ဝယ်ခဲ့တယ်။",
    "pl": "Dziś rano poszedłem na targ i kupiłem trzy pomarańcze; było zimno, -3°C.",
    "pt": "Hoje de manhã fui à feira e comprei três laranjas.",
    "ru": "Сегодня утром я пошёл на рынок и купил три апельсина за 120 ₽.",
    "sw": "Asubuhi hii nilienda sokoni na kununua machungwa matatu.",
    "ta": "இன்று காலை நான் சந்தைக்குச் சென்று மூன்று ஆரஞ்சுகளை வாங்கினேன்.",
    "th": "เช้านี้ฉันไปตลาดและซื้อส้มสามลูก ราคา ๔๕ บาท",
    "tr": "Bu sabah İstanbul'da pazara gittim ve ÜÇ portakal aldım.",
    "uk": "Сьогодні вранці я пішов на ринок і купив три апельсини.",
    "vi": "Sáng nay tôi đi chợ và mua ba quả cam; đắt quá!",
    "zh": "今天早上我去市场买了三个橙子,一共花了12.50元。",
}

HARD = [
    "", " ", "\n", "\x00", "\x00\x01\x7f\x80", "a\r\n\r\n\tb\n\n  c  \n", "   \n\n\t\r\n  x", "x\u00a0\u2003\u3000\u2028y\u0085z",
    "e\u0301 \u0301x é ﬁ ﬀ ǅ ŉ \u200d\ufeff", "👩‍👩‍👧‍👦 🏳️‍🌈 e\ufe0f\u20e3", "1234567890 3.14159 0x7fff ²³ ½ Ⅻ ٣٤٥ १२३४", "camelCase HTTPServer don't WON'T we'LL l'été ÉCOLEÉcole",
    "!!!??? ...\n//a/b\n--x== $%^&*() _x_ `` '' ''s", "\U0010ffff\ufffd\ufdd0", "ab" * 3000, "." * 5000, " " * 5000 + "x", "7" * 5000, "\n" * 3000, "ก" * 3000,
    "<|endoftext|>", "<|endoftext|> <|user|>hi<|end|><|reserved_63|><|endoftext|", "x<|endoftext|>y", "<|end|>" * 40, "<|assistant|>\n<|im_start|><s></s>[INST]",
    "def f(x):\n    return {'a': [1, 22, 333, 4444], \"b\": x ** 2}  # 'll\n\n\nclass A:\n\tpass\n", "https://example.org/a?b=c&d=e#f 2024-11-22T14:27:58Z", "\\frac{a_{1}}{b^2} \\begin{align}",
]  # fmt: skip

# Classes of characters that patterns treat apart; long s is left out, see `LLAMA_CPP`
_POOLS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", " ", "  \n\r\t", "'\"’.,;:!?-_/()[]{}<>|", "éèüßÉÜ", "абвАБВ", "漢字かな한글", "กิ्ा\u0301\u0308",
    "٣४²½Ⅻ", "\u00a0\u2003\u3000\u2028\u0085", "😀🏳️\u200d", "'sS't'T're'RE've'm'll'LL'd", "\x00\x01\x7f", "ǅǈʰªºﬁ",
]  # fmt: skip


def fuzz(count: int, seed: int) -> list[str]:
    """Texts of random stretches of the pools, words of `SENTENCES` and special tokens."""
    generator = random.Random(seed)
    words = [*" ".join(SENTENCES.values()).split(" "), "<|endoftext|>", "<|end|>", "<|reserved_0|>"]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(generator.randrange(1, 14)):
            if generator.random() < 0.3:
                parts.append(generator.choice(words))
            else:
                parts.append(
                    "".join(generator.choices(generator.choice(_POOLS), k=generator.choice([1, 1, 2, 3, 7, 20])))
                )
        texts.append(generator.choice(["", " "]).join(parts))
    return texts


_SHORT = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_AFTER = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"(?:{_SHORT})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_AFTER}"
# What llama.cpp's names stand for: expression, and whether a pre-token that is a token is taken whole. Its expressions know no
# long s among the contractions, which the originals take for an s.
LLAMA_CPP = {
    "gpt-2": (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", False),
    "llama-bpe": (_LLAMA3, True),
    "smaug-bpe": (_LLAMA3, False),
    "qwen2": (_LLAMA3.replace("{1,3}", ""), False),
    "qwen35": (
        rf"(?:{_SHORT})|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_AFTER}",
        False,
    ),
}


class GgufVocabulary:
    """Encodes and decodes by the metadata of a GGUF file alone, special tokens in texts as text (`parse_special` false)."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        reader = GGUFReader(path)
        field: Any = lambda key: reader.get_field(f"tokenizer.ggml.{key}").contents()  # noqa: E731
        assert field("model") == "gpt2" and field("add_bos_token") is False and field("add_eos_token") is False
        self.pre = field("pre")
        self.tokens, self.types = field("tokens"), field("token_type")
        self.eos, self.bos, self.pad = field("eos_token_id"), field("bos_token_id"), field("padding_token_id")
        self.template = reader.get_field("tokenizer.chat_template").contents()
        expression, self.whole = LLAMA_CPP[self.pre]
        self.expression = regex.compile(expression)
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(field("merges"))}
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        self.characters = {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
        self.bytes = {character: byte for byte, character in self.characters.items()}

    def encode(self, text: str) -> list[int]:
        return [number for match in self.expression.finditer(text) for number in self._word(match.group())]

    def _word(self, word: str) -> list[int]:
        spelled = "".join(self.characters[byte] for byte in word.encode())
        if self.whole and spelled in self.ids:
            return [self.ids[spelled]]
        parts = list(spelled)
        while len(parts) > 1:
            ranks = [self.ranks.get(pair, 1 << 60) for pair in itertools.pairwise(parts)]
            at = ranks.index(min(ranks))
            if ranks[at] == 1 << 60:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[part] for part in parts]

    def decode(self, ids: list[int]) -> str:
        return bytes(self.bytes[character] for number in ids for character in self.tokens[number]).decode()
