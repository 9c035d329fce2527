"""Real pages of the bundled sample, checked by hand: what every extractor must find, and leave out."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from stages.extract import ExtractConfig
from stages.extract.reading import Reader
from stages.stage import ASSETS

SAMPLE = Path(__file__).parents[1] / "data" / "sample"
METHODS = ("gristmill", "trafilatura", "resiliparse", "justext")

# Address, segments of the main text, segments of what stands around it, and methods that fail on the page.
PAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "https://www.webserver-docs.example/2.4/ja/vhosts/ip-based.html": (
        ("マシンのすべての IP エイリアスを listen するだけの", "SuexecUserGroup", "ServerAdmin webmaster@mail.baygroup.org"),
        ("用語 | サイトマップ", "Copyright 2026 The Apache"),
        ("trafilatura", "resiliparse", "justext"),
    ),
    "https://releases.compiler.example/14.0.0/docs/TypeMetadata.html": (
        ("Type metadata is a mechanism that allows IR modules to co-operatively build pointer sets",
         "All virtual function calls which might use this vtable are in the current module."),
        ("Created using", "previous |"),
        ("trafilatura",),
    ),
    "https://database.example.net/docs/15/wal-async-commit.html": (
        ("transaction commit is normally synchronous: the server waits for the",
         "Asynchronous commit provides behavior different from setting", "commit_delay also sounds very similar to asynchronous commit"),
        ("30.5.",),
        ("resiliparse",),  # keeps the links to the pages before and after
    ),
    "https://help.office.example/el/text/smath/guide/attributes.html": (
        ("Είναι δυνατή η τροποποίηση προεπιλεγμένων μορφοποιήσεων", "Στο δεύτερο τύπο επιστρέφει ένα a όχι πλέον σε πλάγια γραφή"),
        ("Help content debug info", "This page is:"),
        ("trafilatura", "justext"),
    ),
    "https://small-database.example/asyncvfs.html": (
        ("Normally, when SQLite writes to a database file, it waits until the write operation is finished",
         "Multiple connections from within a single process that use this implementation of asynchronous IO"),
        ("Small. Fast. Reliable.",),
        ("resiliparse",),
    ),
    "https://www.kernel-panic.example.com/es/2019/installation.html": (
        ("Para utilizar Debian necesita instalarlo en una máquina", "Installation requires 256 MB of RAM"),
        ("Todos los derechos reservados", "Aceptar todo"),
        (),
    ),
    "https://zh.handbook.example/existing-setup.html": (
        ("任何系统的彻底修检都应考虑到已有的系统", "Netatalk 也能提供 AppleTalk 协议"),
        ("Download the ebook",),
        ("trafilatura", "justext"),
    ),
    "http://faq-fr.example.org/faq/basic-defs.fr.html": (
        ("Ce document présente les questions les plus fréquemment posées", "La plupart des utilisateurs de Linux font appel à une distribution"),
        ("Chapitre 2. Obtenir et installer Debian GNU/Linux",),
        ("resiliparse",),  # keeps the links to the chapters before and after
    ),
    "https://ar.handbook.example/installation.html": (
        ("لاستخدام دبيان عليك تثبيته على حاسوبك؛ يتكفل برنامج debian-installer", "Various CD-ROM families have different purposes"),
        ("Download the ebook", "دفتر مدير دبيان"),
        (),
    ),
    "https://book.rustacean.example/ch17-00-oop.html": (
        ("Object-oriented programming (OOP) is a way of modeling programs.",),
        ("Foreword", "Ayu"),
        (),
    ),
}  # fmt: skip


@cache
def pages() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in sorted(SAMPLE.glob("crawl-0000[0-2].warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=True):
                if record.headers["WARC-Target-URI"] in PAGES:
                    found.setdefault(record.headers["WARC-Target-URI"], record.reader.read())
    return found


@cache
def reader(method: str) -> Reader:
    return Reader(ExtractConfig(method=method), {"model": ASSETS / "extract" / "blocks.npz"})


@pytest.mark.parametrize(
    ("url", "method"),
    [(url, method) for url, (*_, failing) in PAGES.items() for method in METHODS if method not in failing],
)
def test_main_text_and_nothing_else(url: str, method: str) -> None:
    wanted, unwanted, _ = PAGES[url]
    text = " ".join((reader(method).read(pages()[url], None, url).get("text") or "").split())
    assert [segment for segment in wanted if segment not in text] == []
    assert [segment for segment in unwanted if segment in text] == []
