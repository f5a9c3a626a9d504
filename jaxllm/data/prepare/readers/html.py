"""Web pages: the main text of each by trafilatura, without navigation, comments and footers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Document, Part, Rejected
from jaxllm.data.prepare.readers.base import InputFile, Rows, excerpt, library
from jaxllm.data.prepare.readers.streams import BOM, UTF16, read_whole

ENDINGS = (".html", ".htm", ".xhtml")
OPTIONS = ()
MAX_BYTES = 2_000_000  # 4 seconds of work for a usual page, under a minute for the worst
BLOCKS = re.compile(r"<(?:ul|table)\b", re.IGNORECASE)
MAX_BLOCKS = 3000  # its time grows with the square of their number: 8 seconds for so many
CHARSET = re.compile(
    r"""(<(?:meta|\?xml)\b[^>]{0,200}?(?:charset|encoding)\s{0,9}=\s{0,9}["']?)([\w:.-]{1,40})""",
    re.IGNORECASE | re.ASCII,
)
DECLARED_WITHIN = 4096  # bytes; the standard says 1024, pages say otherwise


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """The page's document. No link is followed.

    Raises:
      UserError: trafilatura is not installed.
    """
    trafilatura = library("trafilatura", "HTML")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it says of bad pages
    name = f"{file.name}:0"
    limit = min(config.max_document_bytes, MAX_BYTES)
    data = read_whole(file, limit, " or the limit of HTML", text=False)
    page = data if isinstance(data, Rejected) else _decode(name, data)
    if isinstance(page, Rejected):
        yield page
        return
    if (count := sum(1 for _ in BLOCKS.finditer(page))) > MAX_BLOCKS:
        detail = f"{count:,} lists and tables are more than {MAX_BLOCKS:,}"
        yield Rejected(name, "too_complex", excerpt(detail, page))
        return
    try:
        text = trafilatura.extract(page, include_comments=False)
    except (RecursionError, ValueError) as error:  # of lxml: nested too deep, or no page at all
        yield Rejected(name, "bad_html", excerpt(str(error), page))
        return
    if text and text.strip():
        yield Rows(file, config).document(0, text)
    else:
        yield Rejected(name, "no_main_text", excerpt("no main text was found", page))


def _decode(name: str, data: bytes) -> str | Rejected:
    """The page as text: UTF-8, or as it declares. A guess from the bytes could be wrong."""
    found = CHARSET.search(data[:DECLARED_WITHIN].decode("latin-1"))
    declared = found[2].lower() if found else ""
    charsets = ["utf-16" if data.startswith(UTF16) else "utf-8"]
    if declared.startswith("iso-2022-"):  # of 7 bits, as if it were UTF-8
        charsets = [declared]
    elif declared:
        charsets.append(declared)
    for charset in charsets:
        try:
            text = data.removeprefix(BOM).decode(charset)
        except (UnicodeError, LookupError):
            continue
        if "\0" in text:
            return Rejected(name, "null_bytes", excerpt("binary data", data))
        return CHARSET.sub(r"\1utf-8", text)  # or the parser would decode it once more
    there = f"declared as {declared}" if declared else "and no other charset is declared"
    return Rejected(name, "invalid_utf8", excerpt(f"no UTF-8, {there}", data))
