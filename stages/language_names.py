"""Names of languages: what a label of any model, or of a config, means in ISO 639 and ISO 15924.

Models spell labels differently: lid.176 as Wikipedia editions (`en`, `zh`), GlotLID and OpenLID as ISO 639-3 with a script
(`eng_Latn`, `cmn_Hani`). Here each becomes a code and perhaps a script, and `resolve` finds a wanted language among a
model's labels.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


def _equations(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split())


# ISO 639-1 and ISO 639-3, in pairs
_PAIRS = """
aa aar ab abk ae ave af afr ak aka am amh an arg ar ara as asm av ava ay aym az aze ba bak be bel bg bul bh bho bi bis
bm bam bn ben bo bod br bre bs bos ca cat ce che ch cha co cos cr cre cs ces cu chu cv chv cy cym da dan de deu dv div
dz dzo ee ewe el ell en eng eo epo es spa et est eu eus fa fas ff ful fi fin fj fij fo fao fr fra fy fry ga gle gd gla
gl glg gn grn gu guj gv glv ha hau he heb hi hin ho hmo hr hrv ht hat hu hun hy hye hz her ia ina id ind ie ile ig ibo
ii iii ik ipk io ido is isl it ita iu iku ja jpn jv jav ka kat kg kon ki kik kj kua kk kaz kl kal km khm kn kan ko kor
kr kau ks kas ku kur kv kom kw cor ky kir la lat lb ltz lg lug li lim ln lin lo lao lt lit lu lub lv lav mg mlg mh mah
mi mri mk mkd ml mal mn mon mr mar ms msa mt mlt my mya na nau nb nob nd nde ne nep ng ndo nl nld nn nno no nor nr nbl
nv nav ny nya oc oci oj oji om orm or ori os oss pa pan pi pli pl pol ps pus pt por qu que rm roh rn run ro ron ru rus
rw kin sa san sc srd sd snd se sme sg sag sh hbs si sin sk slk sl slv sm smo sn sna so som sq sqi sr srp ss ssw st sot
su sun sv swe sw swa ta tam te tel tg tgk th tha ti tir tk tuk tl tgl tn tsn to ton tr tur ts tso tt tat tw twi ty tah
ug uig uk ukr ur urd uz uzb ve ven vi vie vo vol wa wln wo wol xh xho yi yid yo yor za zha zh zho zu zul
"""

# Labels of lid.176 are names of Wikipedia editions. Three-letter ones are ISO 639-3 codes but for `als` (Alemannic
# there, Tosk Albanian in the standard); `bh` is the Bhojpuri edition; `eml` (retired by the standard) and `nah` (a
# group of languages) have no code of their own and keep the label.
_ISO639_3 = dict(zip(_PAIRS.split()[0::2], _PAIRS.split()[1::2], strict=True)) | {"als": "gsw"}

# Macrolanguages of ISO 639-3 that models label as a whole (`zh`) or by their standard variety (`cmn_Hani`): the
# macrolanguage, then the variety that stands for it. Both mean the same when a language is asked for. The other members
# (yue, arz, nno, prs, azb, ...) are languages of their own, to be named beside it.
_STANDARD = _equations(
    "zho=cmn ara=arb nor=nob fas=pes msa=zsm est=ekk lav=lvs swa=swh uzb=uzn aze=azj mon=khk nep=npi ori=ory pus=pbt "
    "sqi=als kur=kmr mlg=plt yid=ydd que=quy grn=gug aym=ayr ful=fuv kon=kng orm=gaz kok=gom srd=src din=dik kau=knc "
    "aka=twi bik=bcl iku=ike oji=ojg cre=crk zha=ccx kom=kpv chm=mhr"
)
_MACRO = {standard: macro for macro, standard in _STANDARD.items()}

# Macrolanguages of which no member is the standard: asked for among labels that have only members, the choice is the user's.
_MEMBERS = {"hbs": ("hrv", "srp", "bos", "cnr"), "lah": ("pnb", "skr"), "hmn": ("hnj", "mww"), "bal": ("bgn", "bcc")}

# Other codes in use: ISO 639-2/B, retired ones, and Filipino, which is standard Tagalog.
_ALIASES = _equations(
    "alb=sqi arm=hye baq=eus bur=mya chi=zho cze=ces dut=nld fre=fra geo=kat ger=deu gre=ell ice=isl mac=mkd may=msa "
    "per=fas rum=ron slo=slk tib=bod wel=cym fil=tgl iw=heb in=ind ji=yid jw=jav mo=ron scc=srp scr=hrv"
)

# Members that labels of a macrolanguage cover where a model has no label of their own: only to say so.
_COVERED = _equations("prs=fas nno=nor arz=ara zlm=msa yue=zho wuu=zho azb=aze ckb=kur hrv=hbs srp=hbs bos=hbs cnr=hbs")

# Finer script codes, as the script whose letters they use.
_SAME_SCRIPT = {
    "Hans": "Hani",
    "Hant": "Hani",
    "Kore": "Hang",
    "Hira": "Jpan",
    "Kana": "Jpan",
    "Aran": "Arab",
    "Latf": "Latn",
}

# Scripts that languages are written in today, by ISO 639-3 code (a standard variety stands under its macrolanguage):
# Unicode CLDR's supplemental data, and the scripts of Wikipedia editions. Languages with an ISO 639-1 code that are not
# here, and the labels of lid.176 under `Latn`, are written in Latin letters alone.
_SCRIPTS_OF = {
    code: tuple(scripts.split("+"))
    for scripts, codes in {
        "Latn": "ast bar bik cbk ceb diq dsb eml frr gsw hsb ilo jbo lmo min mwl nah nap nds pam pfl pms sco scn vec vep vls war",
        "Arab": "ara arz azb ckb fas lrc mzn pnb pus urd prs skr bal ary apc aeb acm ars ajp acq glk lah",
        "Cyrl": "ava bak bel bul bxr chv che kom krc kbd lez chm mhr mrj mkd myv mdf oss rus rue sah tyv ukr abk ady kjh alt "
        "udm inh dar lbe kum nog chu",
        "Deva": "awa bho dty hin mai mar nep new hne mag",
        "Beng": "asm ben bpy", "Ethi": "amh tir", "Hebr": "heb yid", "Hani": "wuu yue zho hak gan lzh", "Geor": "kat xmf",
        "Grek": "ell", "Tibt": "bod dzo", "Thaa": "div", "Gujr": "guj", "Armn": "hye", "Jpan": "jpn", "Khmr": "khm", "Knda": "kan",
        "Hang": "kor", "Laoo": "lao", "Mlym": "mal", "Mymr": "mya shn", "Orya": "ori", "Sinh": "sin", "Taml": "tam", "Telu": "tel",
        "Thai": "tha", "Yiii": "iii", "Avst": "ave", "Guru+Arab": "pan", "Arab+Deva": "snd kas", "Deva+Latn": "hif kok gom pli",
        "Deva+Beng+Telu+Knda+Mlym+Taml+Gujr": "san", "Latn+Cyrl": "hbs srp bos ron tat", "Latn+Arab": "msa hau wol",
        "Latn+Cyrl+Arab": "aze kur tuk uzb", "Cyrl+Latn+Arab": "kaz kir tgk uig", "Cyrl+Mong": "mon xal", "Latn+Java": "jav",
        "Latn+Sund": "sun", "Latn+Tglg": "tgl", "Cans+Latn": "iku cre oji", "Latn+Adlm+Arab": "ful", "Latn+Nkoo": "bam",
    }.items()
    for code in codes.split()
}  # fmt: skip


class Name(NamedTuple):
    """What a label says: ISO 639-3 code (a standard variety as its macrolanguage), ISO 15924 script or None."""

    code: str
    script: str | None


class Wanted(NamedTuple):
    """The labels of a model that mean a wanted language, and the script that its texts must be in, if the labels leave it open."""

    labels: frozenset[str]
    script: str | None


def iso639_3(label: str) -> str | None:
    """The ISO 639-3 code for a label: one of lid.176, or one that begins with an ISO 639-3 code (`eng_Latn`)."""
    base, *script = label.replace("-", "_").split("_")
    if script and len(base) == 3:
        return base
    return _ISO639_3.get(base, base if len(base) == 3 else None)


def parse(label: str) -> Name | None:
    """A language as it is written in ISO 639-1 or 639-3, with a script or without (`zh`, `cmn`, `zho-Hans`); None if it is not."""
    base, *rest = label.strip().replace("-", "_").split("_")
    base = base.lower()
    code = (
        _PLAIN.get(base) if len(base) == 2 else base if len(base) == 3 and base.isascii() and base.isalpha() else None
    )
    if len(rest) > 1 or (rest and not (len(rest[0]) == 4 and rest[0].isascii() and rest[0].isalpha())):
        return None
    code = _ALIASES.get(base, code)
    return None if code is None else Name(_MACRO.get(code, code), rest[0].title() if rest else None)


_PLAIN = {label: code for label, code in _ISO639_3.items() if len(label) == 2}


def names_of(labels: Iterable[str]) -> dict[str, Name | None]:
    """What each label of a model means; bare labels are names of Wikipedia editions if any of them has two letters."""
    labels = list(labels)
    wikipedia = any(len(label) == 2 for label in labels)
    return {
        label: Name("gsw", None)
        if wikipedia and label == "als"
        else Name("bho", None)
        if label == "bh"
        else parse(label)
        for label in labels
    }


def scripts_of(name: Name | None) -> tuple[str, ...] | None:
    """The scripts that texts of a label are written in, as `stages.scripts` counts them; None where that is not known."""
    if name is None:
        return None
    if name.script is not None:
        return (_SAME_SCRIPT.get(name.script, name.script),)
    return _SCRIPTS_OF.get(name.code, ("Latn",) if name.code in _TWO_LETTER_CODES else None)


_TWO_LETTER_CODES = frozenset(_PLAIN.values())


def resolve(wanted: str, names: dict[str, Name | None]) -> Wanted:
    """The labels of a model (`names_of`) that mean what is wanted: a label as it stands, or any code of the language.

    A macrolanguage and its standard variety mean the same (`zh`, `zho`, `cmn`); so do a language and the language with
    its only script (`en`, `eng_Latn`). Raises ValueError, with the nearest right label, for what no label means and for
    what labels leave open.
    """
    if wanted in names:
        return Wanted(frozenset([wanted]), None)
    name = parse(wanted)
    same = {label: other for label, other in names.items() if name and other and other.code == name.code}
    if name is None or not same:
        raise ValueError(f"the model has no label {wanted!r}; {_nearest(wanted, name, names)}")
    if name.script is None:
        return Wanted(frozenset(same), None)
    fits = [label for label, other in same.items() if other.script and _covers(name.script, other.script)]
    if fits:
        return Wanted(frozenset(fits), None)
    bare = frozenset(label for label, other in same.items() if other.script is None)
    scripts = scripts_of(Name(name.code, None)) or ()
    if not bare or name.script not in scripts:
        choice = ", ".join(repr(label) for label in sorted(same))
        raise ValueError(f"the model has no label for {wanted!r} in that script; it has {choice}")
    return Wanted(bare, name.script if len(scripts) > 1 else None)


def _covers(wanted: str, script: str) -> bool:
    return script == wanted or _SAME_SCRIPT.get(script) == wanted


def _nearest(wanted: str, name: Name | None, names: dict[str, Name | None]) -> str:
    """What to write instead of a label that the model does not have."""
    if name is not None and name.code in _MEMBERS:
        members = sorted(label for label, other in names.items() if other and other.code in _MEMBERS[name.code])
        if members:
            return f"it stands for several languages here: choose among {', '.join(map(repr, members))}"
    macro = _COVERED.get(name.code) if name is not None else None
    near = sorted(label for label, other in names.items() if macro and other and other.code == macro)
    near = near or difflib.get_close_matches(wanted, sorted(names), 1, 0.5)
    if not near and (base := parse(wanted.replace("-", "_").split("_")[0])) is not None:  # `pt-BR`, `de-AT`
        near = sorted(label for label, other in names.items() if other and other.code == base.code)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(names)[:8])}, ..."
