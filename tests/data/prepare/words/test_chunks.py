"""Words and punctuation as spaCy's English tokenizer gives them, in time that is linear."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.prepare.words import chunks
from jaxllm.data.prepare.words.chunks import split_chunk

from ..steps import HOSTILE, grows_linearly, loops_in_loops

SPACY = {  # what spacy.blank("en") of spaCy 3.8 gives, its tokens joined by spaces
    "don't": "do n't", "It's": "It 's", "it’s": "it ’s", "they'd've": "they 'd 've",
    "can't.": "ca n't .", "cannot": "can not", "gonna": "gon na", "o'clock": "o'clock",
    "rock'n'roll": "rock'n'roll", "dogs'": "dogs '", "'tis": "' tis", "Ünïcode's": "Ünïcode 's",
    "(e.g.": "( e.g.", "U.S.": "U.S.", "Mr.": "Mr.", "a.m.)": "a.m. )", "i.e.,": "i.e. ,",
    "IBM.": "IBM .", "B.": "B.", "etc.": "etc .", "mile-a.": "mile - a.", "A+.": "A+ .",
    "10km": "10 km", "5%": "5 %", "50k": "50k", "20°C.": "20 ° C .", "$5.50,": "$ 5.50 ,",
    "US$20": "US$ 20", "€5": "€ 5", "5€": "5 €", "-5": "-5", "1,000": "1,000", "3.5": "3.5",
    "3.5.": "3.5 .", "1-2": "1 - 2", "well-known": "well - known", "e-mail--now": "e - mail -- now",
    "and/or": "and/or", "either/or": "either / or", "a,b": "a , b", "a:b": "a : b", "x=y": "x = y",
    "end.Next": "end . Next", "end.next": "end.next", "C++": "C++", "#1": "# 1", "--": "--",
    "http://a.org/b?c=d.": "http://a.org/b?c=d .", "someone@example.com,": "someone@example.com ,",
    "“Quoted,”": "“ Quoted , ”", "¿Qué?": "¿ Qué ?", "wait...": "wait ...", "...and": "... and",
    "foo…bar": "foo … bar", "…": "…", "[edit]": "[ edit ]", "(A0):": "( A0 ):",
    "_emph_": "_ emph _", "&amp;": "& amp ;", "©2020": "© 2020", "привет-мир": "привет - мир",
    "日本語。": "日本語 。",
}


@pytest.mark.parametrize("chunk", SPACY)
def test_tokens_are_spacys(chunk):
    assert " ".join(split_chunk(chunk)) == SPACY[chunk]


@given(st.text("aZ9.,'’-/:()&$%…é日°\ud800", min_size=1, max_size=30))
def test_nothing_is_lost_and_no_token_is_empty(chunk):
    tokens = split_chunk(chunk)
    assert "".join(tokens) == chunk
    assert all(tokens)


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear(piece):
    assert grows_linearly(lambda n: split_chunk((piece * n)[:n].replace(" ", "_")), 4000)


def test_no_pattern_has_a_loop_in_a_loop():
    assert loops_in_loops(re.compile("x(?:a|(b+c))*"))  # the test of the test
    assert not any(map(loops_in_loops, (chunks.INFIX, chunks.SCHEME, chunks.HOST, chunks.ICON)))
