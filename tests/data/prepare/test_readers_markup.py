"""HTML and XML: the text and nothing else, with hostile files turned away."""

import json
import re
import time
import tracemalloc
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.readers import base, find_files, read

from .inputs import items, outline, texts, write

FIRST = ("The first paragraph of the article is long enough to be taken for text, as it says a "
         "few things about a café.")
SECOND = "A second one has <b>bold</b> words &amp; an entity, and is as long as one would expect."
PAGE = f"""<!DOCTYPE html><html><head><title>Title</title>{{meta}}<script>var x = 1;</script></head>
<body><nav><ul><li><a href="/">Home</a></li><li><a href="/shop">Shop</a></li></ul></nav>
<article><h1>The heading</h1><p>{FIRST}</p><p>{SECOND}</p></article>
<footer><p>Copyright 2024. We use cookies.</p></footer></body></html>"""
TEXT = f"The heading\n{FIRST}\n{re.sub('</?b>', '', SECOND).replace('&amp;', '&')}"
LATIN = '<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-1">'


@pytest.mark.parametrize("content", [
    PAGE.format(meta="").encode(), b"\xef\xbb\xbf" + PAGE.format(meta="").encode(),
    PAGE.format(meta=LATIN).encode("latin-1"), PAGE.format(meta="").encode("utf-16"),
    PAGE.format(meta=LATIN).encode(),  # declared wrongly
])
def test_main_text_of_a_page(tmp_path, content):
    """Of one page after the other: nothing is remembered between them."""
    file = write(tmp_path / "a.html", content)
    assert outline([file, write(tmp_path / "b.html", content)]) == [("0", TEXT), ("0", TEXT)]


@pytest.mark.parametrize("encoding", ["utf-8", "iso-2022-jp", "euc-kr", "utf-8-sig"])
def test_pages_declare_their_encoding(tmp_path, encoding):
    text = "東京は日本の首都です。" * 10
    page = f"""<?xml version="1.0" encoding="{encoding.removesuffix('-sig')}"?>
    <html xmlns="http://www.w3.org/1999/xhtml"><body><p>{text}</p></body></html>"""
    assert texts([write(tmp_path / "a.xhtml", page.encode(encoding))]) == [text]


@pytest.mark.parametrize("charset", ["unicode_escape", "idna", "hex", "undefined", "utf-32"])
def test_charsets_that_are_none(tmp_path, charset):
    page = PAGE.format(meta=f'<meta charset="{charset}">').encode("latin-1") + b"\\ud800"
    (found,) = items([write(tmp_path / "a.html", page)])
    assert charset == "unicode_escape" or found.reason == "invalid_utf8"


@pytest.mark.parametrize("content, reason", [
    (b"<html><body></body></html>", "no_main_text"), (b"no page at all", "no_main_text"),
    (PAGE.format(meta="").encode("latin-1"), "invalid_utf8"), (b"<p>\0\1\2</p>", "null_bytes"),
    (PAGE.format(meta='<meta charset="nonsense">').encode("latin-1"), "invalid_utf8"),
    (b"<p>" * 20_000, "no_main_text"), (b"<p>" + b"x" * 2_000_000, "too_long"),
    (b"<UL><li>x</li></UL>" * 3001, "too_complex"),
])
def test_bad_pages(tmp_path, content, reason):
    start = time.perf_counter()
    (found,) = items([write(tmp_path / "a.html", content)])
    assert found.reason == reason
    assert time.perf_counter() - start < 20


def test_html_needs_its_library(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(base.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"HTML needs the library trafilatura.*jaxllm\[prep\]"):
        base.library("trafilatura", "HTML")


BOOK = """<?xml version="1.0"?>
<!DOCTYPE book SYSTEM "http://example.org/book.dtd">
<book xmlns:x="urn:x">
  <!-- a comment --><title>Tom &amp; Jerry</title>
  <chapter n="1">
    <p>One <i>two</i> <b>three</b>,<br/>four&nbsp;five&#33;</p><p>Next <![CDATA[<raw>]]></p>
    <x:note>A note</x:note>
    <chapter><p>inner</p></chapter>
  </chapter>
  <chapter n="2"/>
  <chapter n="3"><p/> <p>Last
line</p></chapter>
</book>"""


def test_text_of_xml(tmp_path):
    file = write(tmp_path / "a.xml", BOOK)
    chapter = "One two three, four\xa0five!\nNext <raw>\nA note\ninner"
    assert outline([file]) == [("0", f"Tom & Jerry\n{chapter}\nLast\nline")]
    assert outline([file], xml_element="chapter") == [("0", chapter), ("1", "Last\nline")]
    assert texts([file], xml_element="note") == texts([file], xml_element="x:note") == ["A note"]
    for encoding in ("utf-16", "iso-8859-1", "windows-1252"):
        other = f"<?xml version='1.0' encoding='{encoding}'?><a>café</a>".encode(encoding)
        assert texts([write(tmp_path / "b.xml", other)]) == ["café"]


def test_elements_that_are_not_there_are_named(tmp_path):
    (found,) = items([write(tmp_path / "a.xml", BOOK)], xml_element="page")
    assert found.reason == "no_text"
    assert "no element 'page' with text; the most frequent are p, chapter, book" in found.excerpt
    assert outline([write(tmp_path / "a.xml", "<a><b/></a>")]) == [("file", "<no_text>")]


TREES = st.recursive(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=6).map(
        lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")),
    lambda inner: st.tuples(st.sampled_from(["", "\n", " "]), st.lists(inner, max_size=4)).map(
        lambda pair: f"{pair[0]}<e>{''.join(pair[1])}</e>"),
    max_leaves=12,
)


@given(st.lists(TREES, max_size=5))
def test_all_text_of_xml_is_there_in_order(tmp_path_factory, trees):
    content = f"<r>{''.join(trees)}</r>"
    file = write(tmp_path_factory.getbasetemp() / "tree.xml", content)
    expected = "".join("".join(ElementTree.fromstring(content).itertext()).split())
    found = "".join(text for _, text in outline([file]) if text != "<no_text>")
    assert "".join(found.split()) == expected


def _laughs(count=9):
    entities = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(count))
    return f'<!DOCTYPE a [<!ENTITY a0 "ha">{entities}]><a>&a{count};</a>'


@pytest.mark.parametrize("content, found", [
    (_laughs(), ["<entity_declared>"]),
    ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', ["<entity_declared>"]),
    ('<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1/x"> %x;]><a>b</a>', ["<entity_declared>"]),
    ("<r><d>one</d><d>two</d><d>three</r>", ["one", "two", "<bad_xml>"]),
    ("<r><d>one</d><d>tw", ["one", "<bad_xml>"]),
    (b"<r><d>one</d><d>caf\xe9</d></r>", ["one", "<bad_xml>"]),
    ("<r><d>one</d>&nbsp;</r>", ["one", "<bad_xml>"]),
    ("no xml", ["<bad_xml>"]),
    ("<d>" * 1000 + "x" + "</d>" * 1000, ["<bad_xml>"]),
    (f"<r><d>one</d><d>{'x' * 500}</d><d a='{'y' * 500}'>three</d><d>four</d></r>",
     ["one", "<too_long>", "<too_long>", "four"]),
])
def test_hostile_and_broken_xml(tmp_path, content, found):
    file = write(tmp_path / "a.xml", content)
    bad = outline([file], xml_element="d" if found[0] == "one" or "<d>" in str(content) else "",
                  max_document_bytes=400)
    assert [text for _, text in bad] == found


def test_xml_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for count in (2000, 8000):
        file = write(tmp_path / "a.xml", f"<r>{'<d><p>some text</p>more</d>' * count}</r>" * 1)
        config = InputConfig(paths=(str(file),), xml_element="d")
        tracemalloc.start()
        assert sum(1 for _ in read(*find_files(config), config)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_tag_without_end_is_bounded(tmp_path):
    file = write(tmp_path / "a.xml", "<a b='" + "x" * 10_000_000)
    start = time.perf_counter()
    assert outline([file], max_document_bytes=100_000) == [("file", "<bad_xml>")]
    assert time.perf_counter() - start < 5


def test_regular_expression_for_charsets_is_linear():
    from jaxllm.data.prepare.readers.html import CHARSET

    for hostile in ("<meta " * 10_000, "<meta charset" + " " * 50_000, "<meta charset=" * 9000):
        start = time.perf_counter()
        re.search(CHARSET, hostile)
        assert time.perf_counter() - start < 1


def test_rows_of_jsonl_with_a_page_in_them_are_left_alone(tmp_path):
    file = write(tmp_path / "a.jsonl", json.dumps({"text": PAGE}))
    assert texts([file]) == [PAGE]
