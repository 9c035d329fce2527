"""Signs of text that is meant for models and not for readers: instructions to them, chat templates, and hidden characters.

Every pattern has bounded repetitions, so that looking takes time linear in the text, and words that must occur for it to be tried at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from stages.template_tokens import PATTERNS


class Cue(NamedTuple):
    """A pattern over lower-case text, tried where one of `triggers` occurs."""

    triggers: tuple[str, ...]
    pattern: re.Pattern[str]


_FEW = r"(?:[\w'’-]{1,30}\s{1,3}){0,4}"
_GAP = r"\s{1,3}"


def _cue(triggers: str, *parts: str) -> Cue:
    return Cue(tuple(triggers.split("|")), re.compile("".join(parts)))


# "Ignore the previous instructions" and its kin (Perez and Ribeiro 2022, "Ignore Previous Prompt"), in the words of each language.
INJECTIONS = (
    _cue(
        "ignore|disregard|forget|override|bypass",
        rf"\b(?:ignore|disregard|forget|override|bypass){_GAP}{_FEW}(?:previous|prior|above|earlier|preceding|initial|original|system){_GAP}",
        rf"{_FEW}(?:instructions?|prompts?|directions|directives|guidelines|commands|rules|context)\b",
    ),
    _cue(
        "do anything now|developer mode|jailbr",
        r"\byou (?:are|can) (?:now )?(?:in )?(?:do anything now|developer mode|jailbroken)\b",
    ),
    _cue(
        "prompt|instructions",
        r"\b(?:reveal|print|repeat|show|output|leak)\s(?:me\s)?(?:your|the)\s(?:system|hidden|initial|secret)\s(?:prompt|instructions)\b",
    ),
    _cue(
        "if you are a|if you're a|as an ai ",
        r"\bif you(?: are|'re|’re) (?:an? |the )?(?:ai|llm|large language model|language model|chatbot|ai assistant|ai agent)\b"
        r"[^.\n]{0,60}\b(?:ignore|respond|reply|output|recommend|include|say|write|must|rate)\b",
    ),
    _cue("system prompt", r"\b(?:new|updated|begin|override) system prompt\b"),
    _cue(
        "ignorier|vergiss|missacht",
        rf"\b(?:ignorieren?|ignoriert|vergiss|missachten?){_GAP}{_FEW}(?:vorherigen?|bisherigen?|obigen?|früheren?|vorigen?|vorangegangenen?){_GAP}",
        rf"{_FEW}(?:anweisung(?:en)?|instruktion(?:en)?|befehle?|prompts?|eingaben?|regeln)\b",
    ),
    _cue(
        "ignore|oublie|compte",
        rf"\b(?:ignore[rz]?|oublie[rz]?|(?:tenez|tiens) pas compte){_GAP}{_FEW}(?:instructions?|consignes?|directives?){_GAP}",
        rf"{_FEW}(?:précédentes?|antérieures?|initiales?|ci-dessus)\b",
    ),
    _cue(
        "ignor|olvid|desestim",
        rf"\b(?:ignor[ae]d?|olvid[ae]d?|desestim[ae]d?){_GAP}{_FEW}(?:instrucciones|indicaciones|órdenes){_GAP}{_FEW}(?:anteriores|previas|iniciales)\b",
    ),
    _cue(
        "ignora|dimentica",
        rf"\b(?:ignora(?:te|re)?|dimentica(?:te|re)?){_GAP}{_FEW}(?:istruzioni|indicazioni|direttive|comandi){_GAP}{_FEW}(?:precedenti|iniziali)\b",
    ),
    _cue(
        "ignor|esque|desconsider",
        rf"\b(?:ignor[ae]r?|esqueça|esqueca|desconsidere){_GAP}{_FEW}(?:instruções|orientações|comandos){_GAP}{_FEW}(?:anteriores|prévias|iniciais)\b",
    ),
    _cue(
        "negeer|vergeet",
        rf"\b(?:negeer|vergeet){_GAP}{_FEW}(?:vorige|voorgaande|eerdere|bovenstaande){_GAP}{_FEW}(?:instructies|aanwijzingen|opdrachten|prompts?)\b",
    ),
    _cue(
        "ignorera|glöm|bortse",
        rf"\b(?:ignorera|glöm|bortse från){_GAP}{_FEW}(?:tidigare|föregående|ovanstående){_GAP}{_FEW}(?:instruktioner(?:na)?|anvisningar(?:na)?)\b",
    ),
    _cue(
        "ignoruj|pomiń|zapomnij",
        rf"\b(?:zignoruj|ignoruj|pomiń|zapomnij){_GAP}{_FEW}(?:poprzedni(?:e|ch)|wcześniejsz(?:e|ych)|powyższ(?:e|ych)){_GAP}"
        rf"{_FEW}(?:instrukcj[ei]|poleceni?a?|poleceń)\b",
    ),
    _cue(
        "игнориру|забудь",
        rf"\b(?:про)?(?:игнорируй|забудь)(?:те)?{_GAP}{_FEW}(?:предыдущи[ех]|прежни[ех]|вышеуказанны[ех]){_GAP}{_FEW}(?:инструкци[ий]|указани[яй]|команды?)",
    ),
    _cue(
        "önceki|yukarıdaki",
        rf"\b(?:önceki|yukarıdaki){_GAP}{_FEW}(?:talimatları|komutları|yönergeleri){_GAP}{_FEW}(?:yoksay|yok say|görmezden gel|dikkate alma|unut)",
    ),
    _cue(
        "忽略|无视|忽視|無視|忘",
        r"(?:忽略|无视|忽視|無視|忘记|忘掉|忘記)[^。\n]{0,12}(?:之前|以前|先前|上面|上述|以上|前面)[^。\n]{0,8}(?:指令|指示|提示|命令|规则|規則)",
    ),
    _cue(
        "無視|忘れ",
        r"(?:以前|これまで|上記|前|先)の[^。\n]{0,10}(?:指示|命令|プロンプト|指令)[^。\n]{0,4}を(?:すべて|全て)?(?:無視|忘れ)",
    ),
    _cue("무시|잊", r"(?:이전|위의?|앞의|기존)\s?[^.\n]{0,12}(?:지시|명령|지침|프롬프트)[^.\n]{0,6}(?:무시|잊)"),
    _cue("تجاهل|انس", r"(?:تجاهل|انس)[^.\n]{0,20}(?:التعليمات|الأوامر|الإرشادات)[^.\n]{0,12}(?:السابقة|أعلاه)"),
    _cue("निर्देश", r"(?:पिछले|पहले के|उपरोक्त)[^।\n]{0,12}निर्देश[^।\n]{0,14}(?:अनदेखा|नज़रअंदाज़|भूल)"),
)

# Markers of chat templates, and of Alpaca's prompts.
CHAT_TOKENS = (
    *(Cue((trigger,), re.compile(pattern)) for trigger, pattern in PATTERNS),
    _cue("### instruction:|### response:", r"(?m)^###\s(?:instruction|response):"),
)

# Styles that hide text, where a page's code came through as text.
HIDDEN_STYLES = (
    _cue(
        "color",
        r"(?<![\w-])color\s{0,3}:\s{0,3}(?:#fff(?:fff)?\b|white\b|transparent\b|rgba?\(\s{0,3}255,\s{0,3}255,\s{0,3}255\b)",
    ),
    _cue("font-size", r"font-size\s{0,3}:\s{0,3}0(?:px|pt|em|rem|%)?\s{0,3}(?:[;\"'}!]|$)"),
    _cue("display", r"display\s{0,3}:\s{0,3}none\b"),
    _cue("visibility", r"visibility\s{0,3}:\s{0,3}hidden\b"),
    _cue("opacity", r"opacity\s{0,3}:\s{0,3}0(?:\.0{1,4})?\s{0,3}(?:[;\"'}!]|$)"),
    _cue("text-indent", r"text-indent\s{0,3}:\s{0,3}-\d{3,9}"),
)

# Characters without width, and variation selectors, both used to write bits between letters. Two in a row are usual in emoji.
_ZERO_WIDTH = re.compile("[\u180e\u200b-\u200d\u2060-\u2064\ufeff\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}")
_FLAG = re.compile(
    "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,8}\U000e007f"
)  # of England, Scotland, Wales, ...
_TAG = re.compile("[\U000e0000-\U000e007f]")
_OVERRIDE = re.compile("[\u202d\u202e]")
_INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")


def injections(lowered: str) -> int:
    """Instructions to models; characters without width do not hide them."""
    if not lowered.isascii():
        lowered = _INVISIBLE.sub("", lowered)
    return _count(INJECTIONS, lowered)


def chat_tokens(lowered: str) -> int:
    """Markers of chat templates."""
    return _count(CHAT_TOKENS, lowered)


def hidden_styles(lowered: str) -> int:
    """CSS that hides text."""
    return _count(HIDDEN_STYLES, lowered)


def zero_width_run(text: str) -> int:
    """Length of the longest run of characters without width; runs of one count as 0."""
    return 0 if text.isascii() else max((len(run) for run in _ZERO_WIDTH.findall(text)), default=0)


def tag_characters(text: str) -> int:
    """Characters of the tag block (U+E0000 to U+E007F) outside emoji flags: invisible ASCII."""
    return 0 if text.isascii() else len(_TAG.findall(_FLAG.sub("", text)))


def bidi_overrides(text: str) -> int:
    """Characters that turn the direction of what follows, whatever it is (U+202D, U+202E; Boucher and Anderson 2021, "Trojan Source")."""
    return 0 if text.isascii() else len(_OVERRIDE.findall(text))


COUNTS: dict[str, tuple[bool, Callable[[str], int]]] = {  # name: whether it reads lower case, and what counts
    "injection": (True, injections),
    "chat_tokens": (True, chat_tokens),
    "zero_width": (False, zero_width_run),
    "tag_characters": (False, tag_characters),
    "bidi": (False, bidi_overrides),
    "hidden_style": (True, hidden_styles),
}


def _count(cues: tuple[Cue, ...], lowered: str) -> int:
    return sum(len(cue.pattern.findall(lowered)) for cue in cues if any(trigger in lowered for trigger in cue.triggers))
