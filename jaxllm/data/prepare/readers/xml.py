"""The text of XML files, parsed as a stream: one document, or one for each `input.xml_element`.

Nothing outside the file is read, and a file that declares entities is rejected: a few of them can
stand for terabytes of text. HTML's names, such as &nbsp;, are known where a DTD would define them.
"""

from __future__ import annotations

import collections
import html.entities
from collections.abc import Iterator
from xml.parsers import expat

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import EXCERPT, Document, Part, Rejected
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile, excerpt, too_long
from jaxllm.data.prepare.readers.streams import open_stream

ENDINGS = (".xml",)
OPTIONS = ("xml_element",)
BLOCK = 2**16
MAX_DEPTH = 500
MAX_NAMES = 1000  # elements that are counted for the error
LISTED = 8
GAP = (True, " ")  # an element without text, such as a line break


def read(
    file: InputFile, config: InputConfig, part: Part | None
) -> Iterator[Document | Rejected]:
    """The documents, without those that are blank; elements within others of the name are part of
    the outer one.

    Raises:
      BrokenFile: the rest of the file is no XML.
    """
    texts, number = _Texts(config.xml_element, config.max_document_bytes), 0
    with open_stream(file) as stream:
        while not texts.finished:
            block = stream.read(BLOCK)
            problem = texts.feed(block)
            for text, size in texts.take():
                name = f"{file.name}:{number}"
                number += 1
                if size > config.max_document_bytes:
                    yield too_long(name, size, config.max_document_bytes, text)
                else:
                    yield Document(name, text, file.source)
            if problem:
                raise problem
    if not number:
        yield Rejected(file.name, "no_text", excerpt(texts.why_none()))


class _Element:
    """An open element: its own text and that of the elements in it, which have ended."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bool, str]] = []  # whether it is a child's, text

    def text(self) -> str:
        """Children between which stands text, or a space, are parts of a line; those between which
        there is nothing, or line ends, are lines."""
        own, inline = [], False
        for is_child, piece in [*self.pieces, (True, "")]:
            if is_child:
                space = "".join(own)
                inline = inline or (bool(space) and (not space.isspace() or "\n" not in space))
                own = []
            else:
                own.append(piece)
        if inline or not any(is_child for is_child, _ in self.pieces):
            return "".join(piece for _, piece in self.pieces)
        children = (piece.strip() for is_child, piece in self.pieces if is_child)
        return "\n".join(child for child in children if child)


class _Texts:
    """Takes the bytes of a file and gives the texts that end in them."""

    def __init__(self, element: str, limit: int):
        self.finished = False
        self._element, self._limit = element, limit
        self._open: list[_Element] = []  # from the document's element down
        self._depth = self._begin = self._fed = 0
        self._done: list[tuple[str, int]] = []
        self._names: collections.Counter[str] = collections.Counter()
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.EntityDeclHandler = self._entity
        parser.SkippedEntityHandler = self._skipped

    def feed(self, block: bytes) -> BrokenFile | None:
        """Parses the next bytes, at the end none; gives what is wrong with them."""
        self._fed += len(block)
        self.finished = not block
        try:
            self._parser.Parse(block, not block)
        except expat.ExpatError as error:
            return BrokenFile("bad_xml", str(error))
        except BrokenFile as error:
            return error
        if self._fed - self._parser.CurrentByteIndex > self._limit + BLOCK:
            return BrokenFile("bad_xml", f"a tag or comment of more than {self._limit:,} bytes")
        return None

    def take(self) -> list[tuple[str, int]]:
        """The texts that have ended since, with their elements' bytes; of one too large the
        beginning."""
        done, self._done = self._done, []
        return done

    def why_none(self) -> str:
        """What to say when there was no text."""
        if not self._element:
            return "there is no text"
        names = ", ".join(name for name, _ in self._names.most_common(LISTED))
        return f"there is no element {self._element!r} with text; the most frequent are {names}"

    def _start(self, tag: str, attributes: dict) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise BrokenFile("bad_xml", f"elements are nested more than {MAX_DEPTH} deep")
        if self._open:
            self._open.append(_Element())
        elif self._element in ("", tag, tag.rpartition(":")[2]):
            self._open, self._begin = [_Element()], self._parser.CurrentByteIndex
        elif tag in self._names or len(self._names) < MAX_NAMES:
            self._names[tag] += 1

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if not self._open:
            return
        text = self._open.pop().text()
        size = self._parser.CurrentByteIndex - self._begin
        if self._open:
            if size <= self._limit:
                self._open[-1].pieces.append((True, text) if text else GAP)
        elif size > self._limit:
            self._done.append((text.strip()[:EXCERPT], size))
        elif text := text.strip():
            self._done.append((text, size))

    def _data(self, text: str) -> None:
        if self._open and self._parser.CurrentByteIndex - self._begin <= self._limit:
            self._open[-1].pieces.append((False, text))

    def _entity(self, name: str, *declaration: object) -> None:
        raise BrokenFile("entity_declared", f"<!ENTITY {name} …> could stand for text without end")

    def _skipped(self, name: str, is_parameter: bool) -> None:
        if not is_parameter:
            self._data(html.entities.html5.get(f"{name};", ""))
