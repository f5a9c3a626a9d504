"""Personal data: what identifies a person or opens an account is masked, or its document dropped.

Found are e-mail addresses, phone numbers, IP addresses, IBANs, payment cards, US social security
numbers and credentials in URLs. Names and postal addresses are not: they need a model of the
language, not a pattern.

The work is linear in the text, whatever is in it: a search starts at a character that ordinary
text seldom has (`@`, `://`, `:`, a digit) and looks at a bounded number of characters around it.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jaxllm.core.errors import UserError, unknown
from jaxllm.data.prepare.stages.base import Dropped, Kept, Outcome, Stage, View

ACTIONS = ("mask", "drop")
TYPES = ("url_credentials", "email", "ip", "iban", "credit_card", "ssn", "phone")
Span = tuple[int, int]  # first character and the one after the last


@dataclass(frozen=True)
class Settings:
    """What is looked for and what happens to it."""

    types: tuple[str, ...] = TYPES  # what a type finds, those behind it in TYPES do not see
    action: str = "mask"  # mask (each becomes `placeholder`) | drop (the document is left out)
    placeholder: str = "<{type}>"  # {type} is the type in capitals: <EMAIL>, <CREDIT_CARD> …
    drop_from: int = 1  # with action "drop": finds from which a document is dropped
    public_ips_only: bool = False  # private and reserved ranges stay (configuration files, code)


def check(settings: Settings) -> None:
    """Raises UserError for settings that cannot work."""
    for name in settings.types:
        if name not in TYPES:
            raise unknown("personal_data.types", name, TYPES)
    if not settings.types:
        raise UserError(
            "personal_data.types is empty, so the stage would look for nothing: leave "
            "'personal_data' out of stages, or name types out of " + ", ".join(TYPES) + "."
        )
    if settings.action not in ACTIONS:
        raise unknown("personal_data.action", settings.action, ACTIONS)
    if settings.drop_from < 1:
        raise UserError(
            f"personal_data.drop_from={settings.drop_from} must be at least 1: the number of finds "
            "from which a document is dropped."
        )


def make(settings: Settings) -> Stage:
    """The stage. `Kept.changes` counts what was masked by type; `Dropped.reason` is the first
    type of TYPES that was found."""
    check(settings)
    labels = {t: settings.placeholder.replace("{type}", t.upper()) for t in settings.types}

    def stage(view: View) -> Outcome:
        text = view.text
        found = find(text, settings.types, settings.public_ips_only)
        if not found:
            return Kept(text)
        counts = Counter(name for _, _, name in found)
        if settings.action == "drop":
            if len(found) < settings.drop_from:
                return Kept(text)
            return Dropped(min(counts, key=TYPES.index))
        parts, place = [], 0
        for start, end, name in found:
            parts += text[place:start], labels[name]
            place = end
        return Kept("".join(parts) + text[place:], dict(sorted(counts.items())))

    return stage


def find(
    text: str, types: Iterable[str] = TYPES, public_ips_only: bool = False
) -> list[tuple[int, int, str]]:
    """(start, end, type) of what is found, in the order of the text and without overlaps."""
    wanted, found, rest = frozenset(types), [], text
    for name in (name for name in TYPES if name in wanted):
        spans = _apart(_FINDERS[name](rest))
        if spans:  # what is found is blank for the types behind
            rest = _blank(rest, spans)
        if public_ips_only and name == "ip":
            spans = [span for span in spans if ipaddress.ip_address(text[slice(*span)]).is_global]
        found += [(start, end, name) for start, end in spans]
    return sorted(found)


def _apart(spans: Iterable[Span]) -> list[Span]:
    """Ascending, and of those that overlap that which begins first."""
    kept: list[Span] = []
    for span in sorted(spans):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def _blank(text: str, spans: Iterable[Span]) -> str:
    """The text with as many null characters in place of each span."""
    parts, place = [], 0
    for start, end in spans:
        parts += text[place:start], "\0" * (end - start)
        place = end
    return "".join(parts) + text[place:]


_AUTHORITY = re.compile(r"[^\s/?#<>\"'\\|`]{1,255}+")
_TOKEN_LENGTH = 20  # a user name this long is a token, such as ghp_… for Git
_SECRET = re.compile(
    r"[?&](?:api_?key|access_?token|auth_?token|token|password|passwd|pwd|secret|client_secret"
    r"|signature|sig)=(?P<value>[^\s&#<>\"'\\]{4,512}+)", re.IGNORECASE,
)


def _url_credentials(text: str) -> Iterator[Span]:
    """user:password before the @ of a URL, and secrets among a query's parameters."""
    place = text.find("://")
    if place < 0:
        return
    while place >= 0:
        if match := _AUTHORITY.match(text, place + 3):
            user, at, _ = match[0].rpartition("@")
            name, colon, secret = user.partition(":")
            if at and ((colon and secret) or len(name) >= _TOKEN_LENGTH):
                yield place + 3, place + 3 + len(user)
        place = text.find("://", place + 3)
    for match in _SECRET.finditer(text):
        yield match.span("value")


_LETTER = "A-Za-z0-9\u00c0-\u1fff"  # scripts that part words by spaces
_LOCAL = re.compile(rf"[{_LETTER}._%+'\-]{{1,64}}+")
_DOMAIN = re.compile(
    rf"(?:[{_LETTER}\-]{{1,63}}+\.){{1,8}}"
    r"(?:xn--[A-Za-z0-9\-]{1,59}+|[A-Za-z]{2,24}+(?![0-9_])|[\u00c0-\u1fff]{2,24}+)"
)


def _email(text: str) -> Iterator[Span]:
    at, taken = text.find("@"), 0
    while at >= 0:
        if match := _DOMAIN.match(text, at + 1):
            before = text[max(at - 64, taken):at]
            local = _LOCAL.match(before[::-1])
            start = at - len(local[0].rstrip(".'%-")) if local else at
            if start < at and text[at - 1] != "." and text[start:at] != "git":  # an ssh address
                yield start, match.end()
                taken = match.end()
        at = text.find("@", at + 1)


# A digit is matched first and what stands before it looked at then, because `re` jumps to the next
# digit, but tries a look-behind at every character.
_IPV4 = re.compile(
    r"[0-9](?<![\w.\-].)(?<![0-9]:.)[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![\w]|[.\-][0-9])"
)
_NUMBERING = re.compile(
    r"(?:version|release|ver\.?|sections?|sec\.|chapter|clause|table|figure|fig\.|paragraph|§§?)"
    r"[ \xa0]?\Z", re.IGNORECASE,
)
_GROUP = re.compile(r":[0-9A-Fa-f]{0,4}:")
_HEX = re.compile(r"[0-9A-Fa-f:.]{0,46}+")
_NOBODY = ("0.0.0.0", "127.0.0.1", "255.255.255.")  # unspecified, loopback, net masks


def _ip(text: str) -> Iterator[Span]:
    for match in _IPV4.finditer(text):
        address = match[0]
        if not address.startswith(_NOBODY) and _parsed(address) is not None:
            start = match.start()
            if not _NUMBERING.search(text[max(0, start - 12):start]):
                yield match.span()
    place = 0
    while match := _GROUP.search(text, place):
        left = _HEX.match(text[max(place, match.start() - 46):match.start()][::-1])
        start, end = match.start() - left.end(), _HEX.match(text, match.start()).end()
        address = text[start:end].rstrip(".")
        whole = not (start and text[start - 1].isalnum()) and not text[end:end + 1].isalnum()
        groups = [group for group in address.split(":") if group]
        if address.endswith(":") and not address.endswith("::"):
            address = address[:-1]  # the colon of a sentence
        if (
            whole
            and (len(groups) > 2 or (len(groups) == 2 and len(groups[0]) == 4))  # not C++'s a::b
            and _parsed(address) is not None
        ):
            yield start, start + len(address)
        place = end


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


_IBAN = re.compile(
    r"[0-9](?<=[A-Za-z]{2}.)(?<!\w[A-Za-z]{2}.)[0-9](?:[ \-]?[A-Za-z0-9]){11,31}"
)
_IBAN_LENGTHS = {  # the SWIFT registry's, by country
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}


def _iban(text: str) -> Iterator[Span]:
    """IBANs of a known country, with its length and a right checksum (ISO 13616)."""
    match = _IBAN.search(text)
    while match:
        start, place = match.start() - 2, match.start() + 2
        letters = [i for i in range(start, match.end()) if text[i].isalnum()]
        length = _IBAN_LENGTHS.get(text[start:start + 2].upper(), 0)
        if length and len(letters) >= length:
            end = letters[length - 1] + 1
            code = "".join(text[i] for i in letters[:length])
            if not text[end:end + 1].isalnum() and _mod97(code) == 1:
                yield start, end
                place = end
        match = _IBAN.search(text, place)


def _mod97(code: str) -> int:
    return int("".join(str(int(letter, 36)) for letter in code[4:] + code[:4])) % 97


_DIGITS = re.compile(r"[0-9]+")
_CARD = re.compile(
    r"[0-9](?<![\w+].)(?<![0-9][.,\-].)(?:[0-9]{11,18}"
    r"|[0-9]{3}(?P<by>[ \-])[0-9]{4}(?P=by)[0-9]{4}(?P=by)[0-9]{1,4}(?:(?P=by)[0-9]{3})?"
    r"|[0-9]{3}(?P<then>[ \-])[0-9]{6}(?P=then)[0-9]{4,5})(?!\w|[.,\-][0-9])"
)
_ISSUERS = re.compile(  # the issuers' first digits and lengths
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|(?:5[1-5]|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12,14}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11}(?:[0-9]{2})?"  # Diners Club
    r"|35[0-9]{14}|(?:1800|2131)[0-9]{11}"  # JCB
    r"|6[0-9]{15}(?:[0-9]{3})?"  # Discover, UnionPay, RuPay
    r"|(?:50|5[6-8]|6[0-9])[0-9]{10,17}|0604[0-9]{8,15}"  # Maestro
)


def _credit_card(text: str) -> Iterator[Span]:
    """Numbers of a known issuer with a right check digit (ISO/IEC 7812, Luhn)."""
    match = _CARD.search(text)
    while match:
        start, place = match.span()
        digits = match[0].replace(" ", "").replace("-", "")
        if _ISSUERS.fullmatch(digits) and _luhn(digits):
            yield start, place
        else:
            place = _DIGITS.search(text, start).end()  # a number may begin within
        match = _CARD.search(text, place)


def _luhn(digits: str) -> bool:
    values = [int(digit) for digit in reversed(digits)]
    doubled = (value * 2 - 9 * (value > 4) for value in values[1::2])
    return (sum(values[::2]) + sum(doubled)) % 10 == 0


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD = re.compile(r"[^\W\d_]+")
_BEFORE = 48  # characters in which a word may say what the number is
_SSN = re.compile(
    r"[0-9](?<![\w.\-/].)[0-9]{2}(?P<by>[ \-]?)[0-9]{2}(?P=by)[0-9]{4}(?!\w|[.\-/][0-9])"
)
_SSN_WORDS = _set("ssn ssns social security itin taxpayer")


def _ssn(text: str) -> Iterator[Span]:
    """123-45-6789 in the ranges that are given out (SSN, ITIN); without hyphens where a word
    before it says what it is."""
    for match in _SSN.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        area, group = int(digits[:3]), int(digits[3:5])
        given = area not in (0, 666) and group and digits[5:] != "0000"
        if given and (area < 900 or 50 <= group <= 99) and (
            match["by"] == "-" or _SSN_WORDS & set(_words_before(text, match.start()))
        ):
            yield match.span()


def _words_before(text: str, place: int) -> list[str]:
    """The last words before a place, lower-cased."""
    return _WORD.findall(text[max(0, place - _BEFORE):place].lower())[-6:]


_S = r"[ .\-/\xa0\u2011\u2013]"  # between groups of digits
_PHONE = re.compile(
    rf"""
    [+(0-9] (?: (?<=\() | (?<![\w$€£¥\#@=%&<].) (?<![0-9][.,:/\-–].) ) (?:
      (?<=\+) (?P<international> 1{_S}?\(?[2-9][0-9]{{2}}\)?{_S}?[0-9]{{3}}{_S}?[0-9]{{4}}(?![0-9])
        | [1-9](?:[ .\-/()\xa0]{{0,2}}[0-9]){{7,14}} )
    | (?<=\() (?P<area> 0[0-9]{{1,4}}\){_S}?[0-9]{{2,8}}(?:{_S}[0-9]{{2,4}}){{0,3}}
        | (?!19|20)[0-9]{{2,4}}\){_S}?[0-9]{{3,4}}[.\-\u2011\u2013][0-9]{{3,4}} )
    | (?P<american> (?<=1){_S}?\([2-9][0-9]{{2}}\){_S}?[2-9][0-9]{{2}}{_S}[0-9]{{4}}
        | (?:(?<=1){_S}[2-9]|(?<=[2-9]))[0-9]{{2}}
          (?P<by>[.\-\u2011\u2013])[2-9][0-9]{{2}}(?P=by)[0-9]{{4}} )
    | (?<=0) (?P<trunk> [0-9]{{1,4}}(?:{_S}[0-9]{{2,4}}){{2,5}}
        | [0-9]{{1,4}}[ \-/\xa0\u2011\u2013][0-9]{{5,8}} )
    | (?P<weak> (?<=\()[0-9]{{2,5}}\)(?:{_S}?[0-9]{{2,8}}){{1,4}}
        | (?<=[0-9])(?=(?:{_S}?[0-9]){{5}})[0-9]{{1,11}}(?:{_S}[0-9]{{2,8}}){{0,4}} )
    ) (?:,?[ ]?(?:x|ext[.]?|extension)[ ]?[0-9]{{1,6}})? (?!\w|[.,:\-/][0-9]|[ ]?[=+*×÷<])
    """,
    re.VERBOSE,
)
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}[.\-/][0-9]{1,2}[.\-/][0-9]{1,2}|[0-9]{1,2}([.\-/])[0-9]{1,2}\1"
    r"(?:19|20)[0-9]{2}|(?:(?:19|20)[0-9]{2}[ .\-/–]?){2,}"
)
_PHONE_DIGITS = {  # how many a number of that form has
    "international": (8, 15), "area": (7, 13), "american": (10, 11), "trunk": (9, 15),
    "weak": (6, 12),
}
_PHONE_NOUNS = _set(
    "phone phones telephone tel telf telefon téléphone teléfono telefono telefone telefoon puhelin "
    "telefonnummer téléphones tél fax telefax mobile mobil mobiel móvil movil celular cellulare "
    "cell cellphone handy portable whatsapp sms hotline helpline voicemail pager landline ph "
    "тел телефон τηλέφωνο τηλ телефону موبايل هاتف تلفن फोन मोबाइल"
)
_PHONE_VERBS = _set(
    "call calls called calling dial dialed dialled dialing text texting texted ring rang reach "
    "reached contact contacting answered answering message messages messaged appelez appeler "
    "llame llamar llama chiamare ligue anrufen rufen bel bellen"
)
_PHONE_LINKS = _set(  # between such a verb and the number
    "me us him her them you back at on to now today from toll free for number numbers the my our "
    "his their is please in under unter au al zu op please"
)
_PHONE_SIGNS = ("电话", "電話", "手机", "手機", "전화", "携帯", "โทร")  # no spaces around words
_PHONE_AFTER_WORDS = "office fax mobile cell home work direct phone tel landline voice"
_PHONE_AFTER = re.compile(
    rf"[ \-–,(]{{0,3}}(?:{_PHONE_AFTER_WORDS.replace(' ', '|')})\b", re.IGNORECASE
)
_PHONE_CUES = _PHONE_NOUNS | _PHONE_VERBS | _set(_PHONE_AFTER_WORDS)
_SENTENCE_END = re.compile(r"(?<!tel)(?<!mob)(?<!ph)(?<!no)[.!][\"'”)]?\s", re.IGNORECASE)


def _phone(text: str) -> Iterator[Span]:
    """Numbers in a form that only phone numbers have; others where a word says what they are."""
    match, cues = _PHONE.search(text), None
    while match:
        start, place = match.span()
        if match["weak"] and cues is None:  # looked up once: a table of numbers has no such word
            words = _WORD.findall(text.lower())
            cues = not _PHONE_CUES.isdisjoint(words) or any(sign in text for sign in _PHONE_SIGNS)
        if (cues or not match["weak"]) and _is_phone(text, match):
            yield start, place
        else:  # another number may begin within what was taken
            place = _DIGITS.search(text, start).end()
        match = _PHONE.search(text, place)


def _is_phone(text: str, match: re.Match[str]) -> bool:
    form = match.lastgroup
    number = text[match.start():match.end(form)]  # without an extension
    groups = _DIGITS.findall(number)
    fewest, most = _PHONE_DIGITS[form]
    if not fewest <= sum(map(len, groups)) <= most or _DATE.fullmatch(number):
        return False
    if form == "trunk":
        separators = re.sub(r"[0-9]", "", number)[1:]  # the area code may be set off by another
        return len(set(separators)) < 2 and (number[1] != "0" or number[2] not in "0 ")
    if form == "weak":
        if len(groups) == 1 and len(number) < 7:
            return False
        return _called_phone(text, *match.span())
    return True


def _called_phone(text: str, start: int, end: int) -> bool:
    if _PHONE_AFTER.match(text, end):
        return True
    before = _SENTENCE_END.split(text[max(0, start - _BEFORE):start].lower())[-1]
    words = _WORD.findall(before)[-6:]
    if _PHONE_NOUNS.intersection(words[-4:]):
        return True
    for word in reversed(words):
        if word in _PHONE_VERBS:
            return True
        if word not in _PHONE_LINKS:
            break
    return any(sign in before[-8:] for sign in _PHONE_SIGNS)


_FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "url_credentials": _url_credentials, "email": _email, "ip": _ip, "iban": _iban,
    "credit_card": _credit_card, "ssn": _ssn, "phone": _phone,
}
