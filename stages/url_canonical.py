"""One spelling for the many of an address: `canonical_url`, pure, idempotent, never raising.

What is done is section 6.2 of RFC 3986 (case, percent-encoding, dot segments, default ports), IDNA for the host, and
what browsers forgive (backslashes, tabs, missing slashes). Then what names the visit and not the page goes: fragment,
credentials, parameters of trackers, session ids. Scheme, `www.`, a trailing slash, `index.html` and the order of the
parameters stay as they are: servers are free to answer differently to each.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,30}):(?!\d)", re.IGNORECASE)  # "localhost:8080" has a port, not a scheme
ODD_SCHEME = re.compile(r"[^/?#]{1,32}://")  # "1http://": neither a scheme nor a host
_PORTS = {"http": "80", "https": "443", "ftp": "21"}

_DROPPED = {ord(character): None for character in "\t\n\r"}  # WHATWG URL: anywhere in the input
_BLANK = "".join(map(chr, range(0x21)))  # WHATWG URL: at both ends
_SURROGATE = re.compile("[\ud800-\udfff]")

_HOST = re.compile(r"[a-z0-9_.!$&'()*+,;=~-]+")  # RFC 3986 reg-name; labels with _ are met
_CANONICAL_HOST = re.compile(rf"(?:https?|ftp)://(?:({_HOST.pattern})|\[([0-9a-f:.]+)\])(?::[0-9]{{1,5}})?/")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_IN_PATH = r"A-Za-z0-9\-._~!$&'()*+,;=:@/"  # RFC 3986: unreserved, sub-delims, ":", "@", and "/" between segments
_TO_ENCODE = {
    "path": re.compile(rf"%[0-9A-Fa-f]{{2}}|[^{_IN_PATH}]"),
    "query": re.compile(rf"%[0-9A-Fa-f]{{2}}|[^{_IN_PATH}?]"),  # of a fragment too
}
_PATH_SESSION = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/;]*", re.IGNORECASE)  # the Servlet specification's form
_ASP_SESSION = re.compile(r"/\([A-Za-z]\([A-Za-z0-9]{24}\)\)(?=/|$)")  # ASP.NET's cookieless session
_SEGMENT = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
_SIMPLE = re.compile(rf"https?://(?:[a-z0-9-]+\.)+[a-z]+/(?:{_SEGMENT}/)*(?:{_SEGMENT})?")  # canonical as it is: most

# Parameters that say how a visitor came, never which page is asked for. Collected from the documentation of the
# programs that add them; ambiguous names (`ref`, `source`, `from`, `s`) are left out: sites use them for pages.
TRACKING_PREFIXES = (
    "utm_",  # Google Analytics' campaign parameters, used by nearly all others too
    "mtm_",  # Matomo
    "matomo_",
    "piwik_",
    "hsa_",  # HubSpot ads
    "vero_",  # Vero
    "oly_",  # Omeda
    "trk_",  # ad networks
)
_TRACKERS = {
    "Google": "gclid gclsrc dclid gbraid wbraid gad gad_source gad_campaignid srsltid _ga _gl",
    "Meta": "fbclid fb_action_ids fb_action_types fb_source fb_ref igshid igsh",
    "Microsoft": "msclkid",
    "Yandex": "yclid ymclid ysclid _openstat",
    "other networks": "twclid ttclid li_fat_id epik scid rdt_cid irclickid irgwc cjevent cjdata",
    "Mailchimp": "mc_cid mc_eid",
    "Piwik": "pk_campaign pk_kwd pk_keyword pk_source pk_medium pk_content pk_cid",
    "HubSpot": "_hsenc _hsmi __hssc __hstc __hsfp hsctatracking",
    "Marketo": "mkt_tok",
    "Adobe": "s_cid s_kwcid ef_id",
    "mailing": "ml_subscriber ml_subscriber_hash _ke _kx bsft_clkid bsft_eid bsft_mid bsft_uid ck_subscriber_id",
    "web analysts": "wickedid wt_mc wt_zmc at_campaign at_medium",
    "Alibaba": "spm",
}
TRACKING_NAMES = frozenset(name for names in _TRACKERS.values() for name in names.split())

SESSION_NAMES = frozenset(
    ("phpsessid", "jsessionid", "aspsessionid", "cfid", "cftoken", "oscsid", "zenid", "sessionid", "session_id")
)
_MAYBE_SESSION = frozenset(("sid", "session", "sess", "sessid", "s_id"))  # story or site ids too: the value decides
_SESSION_VALUE = re.compile(r"(?=[^0-9]*[0-9])[0-9A-Za-z_-]{16,}")


def canonical_url(url: str) -> str:
    """The canonical spelling of an address; without a scheme it counts as http.

    Idempotent. What names no host on the web (`mailto:`, a broken host or port, nothing at all) comes back as it is,
    without blanks around it. Lone surrogates become U+FFFD, as everywhere.
    """
    if _SIMPLE.fullmatch(url):
        return url
    url = url.translate(_DROPPED).strip(_BLANK)
    if not url.isascii() and _SURROGATE.search(url):
        url = _SURROGATE.sub("\ufffd", url)
    match = SCHEME.match(url)
    if match is None and ODD_SCHEME.match(url):
        return url
    scheme = match[1].lower() if match else "http"
    if scheme not in _PORTS:
        return url
    rest, hash_, fragment = (url[match.end() :] if match else url).partition("#")
    rest, _, query = rest.partition("?")
    rest = rest.replace("\\", "/").lstrip("/")
    authority, _, path = rest.partition("/")
    authority = _authority(authority, scheme)
    if not authority:
        return url
    path = _path(path)
    query = _query(query) if query else ""
    # only `#!` ever named a page of its own (Google's AJAX crawling scheme)
    fragment = "#" + _encoded(fragment, "query") if hash_ and fragment.startswith("!") and fragment != "!" else ""
    return f"{scheme}://{authority}{path}{'?' if query else ''}{query}{fragment}"


def canonical_host(url: str) -> str | None:
    """The host of what `canonical_url` gave (ASCII, `www.` kept, IPv6 without brackets); None if it has none."""
    match = _CANONICAL_HOST.match(url)
    return match and (match[1] or match[2])


def _authority(text: str, scheme: str) -> str:
    """Host and port, without credentials; empty if they are none."""
    text = text.rpartition("@")[2]
    if text[:1] == "[":
        end = text.find("]")
        host, port = text[: end + 1], text[end + 1 :]
        if end < 0 or (port and port[0] != ":"):
            return ""
        port = port[1:]
    else:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and len(port) < 10 and int(port) < 65536):
        return ""
    port = str(int(port)) if port else ""
    host = _ipv6(host) if host[:1] == "[" else ascii_host(host)
    return f"{host}:{port}" if host and port and port != _PORTS[scheme] else host


def ascii_host(host: str) -> str:
    """A host name in lower case and ASCII (IDNA 2008 with the mapping of UTS 46); empty if it is none."""
    if "%" in host:
        host = unquote(host, errors="replace")
    if not host.isascii():
        import idna

        try:
            # labels that are ASCII already are left alone: real ones hold underscores, which IDNA forbids
            labels = idna.uts46_remap(host, std3_rules=False, transitional=False).split(".")
            host = ".".join(label if label.isascii() else idna.alabel(label).decode() for label in labels)
        except (UnicodeError, ValueError, IndexError):
            return ""
    host = host.lower().strip(".")
    return host if _HOST.fullmatch(host) else ""


def _ipv6(host: str) -> str:
    """An address in brackets, compressed (RFC 5952); empty if it is none."""
    import ipaddress

    try:
        return f"[{ipaddress.IPv6Address(host[1:-1])}]" if "%" not in host else ""
    except ValueError:
        return ""


def _path(path: str) -> str:
    """A path from its first "/" on: percent-encoding, session ids, dot segments."""
    path = "/" + _encoded(path, "path")
    if ";" in path:
        path = _PATH_SESSION.sub("", path)
    if "/(" in path:
        path = _ASP_SESSION.sub("", path) or "/"
    return _without_dots(path) if "/." in path else path


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4, for a path that begins with "/"."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _query(query: str) -> str:
    """The parameters that say which page is asked for, in their order."""
    return "&".join(part for part in _encoded(query, "query").split("&") if part and not _is_passing(part))


def _is_passing(parameter: str) -> bool:
    """Whether a parameter belongs to a visit and not to the page."""
    name, _, value = parameter.partition("=")
    name = name.lower()
    if name in TRACKING_NAMES or name in SESSION_NAMES or name.startswith(TRACKING_PREFIXES):
        return True
    return name in _MAYBE_SESSION and _SESSION_VALUE.fullmatch(value) is not None


def _encoded(text: str, part: str) -> str:
    """Percent-encoding in normal form: unreserved characters bare, what may not stand bare in UTF-8, hex in upper case."""
    return _TO_ENCODE[part].sub(_encode, text)


def _encode(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) == 3:
        octet = int(found[1:], 16)
        return chr(octet) if octet in _UNRESERVED else found.upper()
    return "".join(f"%{octet:02X}" for octet in found.encode())
