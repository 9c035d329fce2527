"""Pages that hold no document though a server sent them as one: script-only shells, framesets, soft 404s, and AMP doubles."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from stages.extract.metadata import Metadata
from stages.extract.page import Page
from stages.extract.tags import FLAGS, NUMBER, SKIPPED, TEXT

SHELL_TEXT = 200  # bytes of text outside scripts: a page with less is a shell, if it has a script
SOFT_404_TEXT = 1000  # characters: a longer text is one, whatever its title says

# What pages that are not there call themselves, alone or beside the site's name, in languages of many such pages.
_MISSING = re.compile(
    r"(?:^|[-|–—:•·\s])(?:(?:error|fehler|erreur|errore|ошибка|fout|fel|virhe|błąd|chyba|hata|erro)\W{0,3})?404(?:[-|–—:•·.,!\s]|$)"
    r"|\b(?:page|file|document|site|article|post|product|item|listing|content)s?\W+(?:you\W+(?:requested|are\W+looking\W+for)\W+)?"
    r"(?:(?:was|is|were|are|could|can|does|has|no)\W+)?(?:not|n[o']t|longer|cannot|been)\W+(?:be\W+)?(?:found|available|exist|removed)"
    r"|\bnot found\b|\b(?:seite|artikel|dokument) (?:wurde )?nicht (?:gefunden|verfügbar)|\bpage (?:introuvable|non trouvée|inexistante)"
    r"|\bp[áa]gina no (?:encontrada|existe)|\bp[áa]gina n[ãa]o encontrada|\bpagina non trovata|\bpagina niet gevonden"
    r"|\bsidan (?:hittades inte|kunde inte hittas)|\bsiden blev ikke fundet|\bsivua ei löy|\bstrona nie (?:została znaleziona|istnieje)"
    r"|страница не найдена|сторінку не знайдено|\bsayfa bulunamadı|页面不存在|找不到(?:该)?页面|ページが見つかりません|페이지를 찾을 수 없|الصفحة غير موجودة",
    re.IGNORECASE,
)
_FRAMESET, _HTML, _SCRIPT = NUMBER["frameset"], NUMBER["html"], NUMBER["script"]
_AMP = re.compile(rb"(?:^|\s)(?:amp|\xe2\x9a\xa1)(?=[\s=/]|$)", re.IGNORECASE)
_SKIPPED = np.array([flags & SKIPPED != 0 for flags in FLAGS])


class Signals(NamedTuple):
    """What a page seems to be instead of a document."""

    shell: bool
    frames: bool
    soft_404: bool
    amp: bool


def read_signals(page: Page, metadata: Metadata, text: str) -> Signals:
    """Judge a page by its tree, its title and the text that was extracted."""
    tags = page.tree.tag
    empty = len(text) < SHELL_TEXT
    return Signals(
        shell=empty and bool((tags == _SCRIPT).any()) and _text_bytes(page) < SHELL_TEXT,
        frames=empty and bool((tags == _FRAMESET).any()),
        soft_404=len(text) < SOFT_404_TEXT
        and metadata.title is not None
        and _MISSING.search(metadata.title) is not None,
        amp=_is_amp(page),
    )


def _text_bytes(page: Page) -> int:
    """Bytes of all text that a browser without scripts would show."""
    tree = page.tree
    total, node = 0, 0
    while node < len(tree.tag) and total < SHELL_TEXT:
        if tree.tag[node] == TEXT:
            total += int(tree.end[node] - tree.begin[node])
        elif _SKIPPED[tree.tag[node]]:
            node = int(tree.last[node])
            continue
        node += 1
    return total


def _is_amp(page: Page) -> bool:
    """Whether the root element says so, as AMP pages must (https://amp.dev/documentation/guides-and-tutorials/learn/spec/amphtml)."""
    tree = page.tree
    root = np.flatnonzero(tree.tag[:20] == _HTML)
    return len(root) > 0 and _AMP.search(page.raw[tree.begin[root[0]] : tree.end[root[0]]]) is not None
