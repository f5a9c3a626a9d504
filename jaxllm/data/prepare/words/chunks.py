"""Splitting what stands between white space into words and punctuation, as spaCy does for English.

The rules are spaCy's documented algorithm: exceptions first (contractions, abbreviations,
emoticons), else prefixes and suffixes are taken off one at a time, then infixes are cut, unless
what is left is a URL. `tests/data/prepare/test_chunks.py` holds tokens that spaCy gave.
"""

from __future__ import annotations

import re
import string

from jaxllm.data.prepare.words.english import EXCEPTIONS

LONGEST_EXCEPTION = max(map(len, EXCEPTIONS))
LONGEST_URL = 2000  # characters; anything longer is split like other text
TAIL = 10  # characters of a chunk that decide about its first or last token


def _ranges(text: str) -> frozenset[str]:
    """The characters of ranges such as '21 5d0-5ea', in hexadecimal."""
    pairs = [part.split("-") for part in text.split()]
    return frozenset(
        chr(code) for pair in pairs for code in range(int(pair[0], 16), int(pair[-1], 16) + 1)
    )


SENTENCE_END = _ranges(  # Unicode's Sentence_Terminal, and three Khmer marks
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e "
    "1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e "
    "1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 "
    "a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f "
    "ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 "
    "111cd 111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 "
    "11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 "
    "11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16e98 1bc9f 1da88"
)
SYMBOLS = SENTENCE_END | frozenset(string.punctuation) | _ranges(  # Moses' punctuation, controls
    "0-8 b-1f 7f-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 25ba 3001-3002 3008-300d "
    "3010-3011 ff01 ff05 ff08-ff09 ff0c ff0e ff11 ff1a-ff1b ff1f ff5e"
)
PUNCTUATION = frozenset("…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪")
QUOTES = frozenset("'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧")
CURRENCY = frozenset("$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿")
DOLLARS = ("US$", "C$", "A$")
ICONS = "¦©®°\u2100\u2101\u2103-\u2106\u2114\u2116\u2117\u211e-\u2123\u2195-\u2199\u21d5-\u21f3" \
    "\u2300-\u2307\u230c-\u231f\u2322-\u2328\u232b-\u23db\u2400-\u244a\u249c-\u24e9\u2500-\u25b6" \
    "\u25b8-\u25c0\u25c2-\u25f7\u2600-\u266e\u2670-\u2767\u2794-\u27bf\u2800-\u28ff\u2b00-\u2b2f" \
    "\u2b45\u2b46\u2b4d-\u2bff\u3012\u3013\u3020\ufffc\ufffd\U0001f000-\U0001faff"
ICON = re.compile(f"[{ICONS}]")
UNITS = frozenset(re.split(
    " ", "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz "
    "m/s km/h kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ "
    "см см² см³ мм мм² мм³ нм кг г мг м/с км/ч кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ كم كم² "
    "كم³ م م² م³ سم سم² سم³ مم مم² مم³ غرام جرام جم كغ ملغ كوب اكواب",
))
PREFIX = PUNCTUATION | QUOTES | CURRENCY | frozenset("§%=—–")
SUFFIX = PUNCTUATION | QUOTES | frozenset("—–")
BEFORE_STOP = PUNCTUATION | QUOTES | frozenset("0123456789%²-+|?:()")
LETTER = r"[^\W\d_]"
INFIX = re.compile(
    rf"\.\.+|…|[{ICONS}]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[\w'\"”“`‘´’,„»«])\.(?=[\w'\"”“`‘´’,„»«])"
    rf"|(?<={LETTER}),(?={LETTER})|(?<=[^\W_])(?:---?|-|–|——?|~)(?={LETTER})"
    rf"|(?<=[^\W_])[:<>=/](?={LETTER})"
)
SCHEME = re.compile(r"[\w+\-.]{2,}://")
HOST = re.compile(
    r"(?:(?:[A-Za-z0-9\u00a1-\uffff_-]{1,64}\.)+([^\W\d_]{2,63})|\d{1,3}(?:\.\d{1,3}){3})"
    r"(?::\d{2,5})?(?:[/?#]|$)"
)


def split_chunk(chunk: str) -> list[str]:
    """The words and punctuation of a text without white space, in order."""
    if known := EXCEPTIONS.get(chunk):
        return list(known)
    if chunk.isalpha():
        return [chunk]
    word, last = chunk[:-1], chunk[-1]
    if word.isalpha() and word not in EXCEPTIONS and (  # most chunks are a word and a sign
        last in SUFFIX or (last == "." and _is_lower(word[-1]))
    ):
        return [word, last]
    before: list[str] = []
    after: list[str] = []
    start, end = _strip(chunk, before, after)
    core = chunk[start:end]
    if not core:
        middle: list[str] = []
    elif known := EXCEPTIONS.get(core):
        middle = list(known)
    elif core.isalnum() or _is_url(core):
        middle = [core]
    else:
        middle = _cut(core)
    return _joined([*before, *middle, *reversed(after)])


def _strip(chunk: str, before: list[str], after: list[str]) -> tuple[int, int]:
    """Takes prefixes and suffixes off; gives the place of what is left."""
    start, end = 0, len(chunk)
    while start < end:
        if _exception(chunk, start, end):
            break
        prefix = _prefix(chunk, start, end)
        if prefix and _exception(chunk, start + prefix, end):
            before.append(chunk[start: start + prefix])
            return start + prefix, end
        suffix = _suffix(chunk, start + prefix, end)
        if suffix and _exception(chunk, start, end - suffix):
            after.append(chunk[end - suffix: end])
            return start, end - suffix
        if not prefix and not suffix:
            break
        if prefix:
            before.append(chunk[start: start + prefix])
            start += prefix
        if suffix:
            after.append(chunk[end - suffix: end])
            end -= suffix
    return start, end


def _joined(tokens: list[str]) -> list[str]:
    """Exceptions that the rules took apart are one again, such as the abbreviation in `mile-a.`"""
    if len(tokens) < 2:
        return tokens
    result: list[str] = []
    for token in tokens:
        pair = result[-1] + token if result else token
        if len(pair) <= LONGEST_EXCEPTION and len(EXCEPTIONS.get(pair, ())) == 1 and result:
            result[-1] = pair
        else:
            result.append(token)
    return result


def _exception(chunk: str, start: int, end: int) -> bool:
    return 0 < end - start <= LONGEST_EXCEPTION and chunk[start:end] in EXCEPTIONS


def _prefix(chunk: str, start: int, end: int) -> int:
    """The length of the first token of chunk[start:end] if it is a prefix, else 0."""
    first = chunk[start]
    if first in PREFIX or (first > "\x7f" and ICON.match(first)):
        return 1
    if first == ".":
        place = start
        while place < end and chunk[place] == ".":
            place += 1
        return place - start if place - start > 1 else 0
    if first == "+":
        return int(not ("0" <= chunk[start + 1: min(start + 2, end)] <= "9"))
    return next((len(sign) for sign in DOLLARS if chunk.startswith(sign, start, end)), 0)


def _suffix(chunk: str, start: int, end: int) -> int:
    """The length of the last token of chunk[start:end] if it is a suffix, else 0."""
    if start == end:
        return 0
    last = chunk[end - 1]
    if last == ".":
        return _stop(chunk, start, end)
    tail = chunk[max(start, end - TAIL): end]
    if last in "sS" and tail[-2:-1] in ("'", "’"):
        return 2
    if last in SUFFIX or (last > "\x7f" and ICON.match(last)):
        return 2 if tail.endswith("……") else 1
    for size in range(min(5, len(tail) - 1), 0, -1):
        if "0" <= tail[-size - 1] <= "9" and (
            (unit := tail[-size:]) in UNITS or unit in DOLLARS or unit in CURRENCY or unit == "+"
        ):
            return size
    return 0


def _stop(chunk: str, start: int, end: int) -> int:
    place = end
    while place > start and chunk[place - 1] == ".":
        place -= 1
    if end - place > 1:
        return end - place
    if place == start:
        return 0
    last, pair = chunk[place - 1], chunk[max(start, place - 2): place]
    if last in BEFORE_STOP or _is_lower(last) or (pair[0] == "°" and last in "FCK"):
        return 1
    return int(len(pair) == 2 and _is_upper(pair[0]) and _is_upper(last))


def _is_lower(character: str) -> bool:
    """A lower-case letter, or one of a script without cases."""
    return character.isalpha() and not character.isupper()


def _is_upper(character: str) -> bool:
    """An upper-case letter, or one of a script without cases."""
    return character.isalpha() and not character.islower()


def _cut(core: str) -> list[str]:
    """Cuts at hyphens, dashes, slashes and the like between letters."""
    parts, start = [], 0
    for match in INFIX.finditer(core):
        place, stop = match.span()
        if place == 0 or (match[0] == "." and not _ends_sentence(core[place - 1], core[stop])):
            continue
        if place > start:
            parts.append(core[start:place])
        parts.append(match[0])
        start = stop
    if start < len(core):
        parts.append(core[start:])
    return parts


def _ends_sentence(before: str, after: str) -> bool:
    return (before in QUOTES or _is_lower(before)) and (after in QUOTES or _is_upper(after))


def _is_url(core: str) -> bool:
    """Whether this is all of a URL, a host name or an e-mail address."""
    if "." not in core or len(core) > LONGEST_URL:
        return False
    scheme = SCHEME.match(core)
    starts = {0, scheme.end() if scheme else 0}
    starts.update(place + 1 for place, c in enumerate(core[:256]) if c == "@" and place > 0)
    for start in starts:
        match = HOST.match(core, start)
        if match and (match[1] is None or not any(map(str.isupper, match[1]))):
            return True
    return False
