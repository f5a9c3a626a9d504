"""Personal data: what is found by type, what is left alone, and hostile text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.stages import personal_data
from jaxllm.data.prepare.stages.base import Dropped, Kept, View
from jaxllm.data.prepare.stages.personal_data import TYPES, Settings

FOUND = {  # text -> what is found in it
    "write to Jane.Doe+x@mail.example.co.uk.": {"Jane.Doe+x@mail.example.co.uk": "email"},
    "почта@пример.рф": {"почта@пример.рф": "email"},
    "联系abc@b.com请": {"abc@b.com": "email"},
    "https://user:s3cret@host.example/x": {"user:s3cret": "url_credentials"},
    "s3://b/k?x=1&token=abcd1234&y=2": {"abcd1234": "url_credentials"},
    "from 106.31.73.20:8080": {"106.31.73.20": "ip"},
    "at 2001:db8::1, or fe80::1.": {"2001:db8::1": "ip", "fe80::1": "ip"},
    "6e40:4041:c617:e898:c11:40d2:c669:2eb4": {"6e40:4041:c617:e898:c11:40d2:c669:2eb4": "ip"},
    # the registry's own examples (ISO 13616)
    "IBAN DE89 3704 0044 0532 0130 00 please": {"DE89 3704 0044 0532 0130 00": "iban"},
    "gb82west12345698765432": {"gb82west12345698765432": "iban"},
    "NO9386011117947": {"NO9386011117947": "iban"},
    # the test numbers that issuers publish
    "4111 1111 1111 1111": {"4111 1111 1111 1111": "credit_card"},
    "3782-822463-10005": {"3782-822463-10005": "credit_card"},
    "5555555555554444,": {"5555555555554444": "credit_card"},
    "30569309025904": {"30569309025904": "credit_card"},
    "no. 1234 4111 1111 1111 1111": {"4111 1111 1111 1111": "credit_card"},
    "tel 51 516 33 75 4111 1111 1111 1111": {
        "51 516 33 75": "phone", "4111 1111 1111 1111": "credit_card"},
    "::ffff:10.1.2.3": {"::ffff:10.1.2.3": "ip"},
    "https://h/?token=abc://u:pw@h": {"abc://u:pw@h": "url_credentials"},
    "my SSN is 078-05-1120": {"078-05-1120": "ssn"},
    "social security number: 078051120": {"078051120": "ssn"},
    "call (555) 123-4567 now": {"(555) 123-4567": "phone"},
    "1-800-555-1234 x12": {"1-800-555-1234 x12": "phone"},
    "+41 (0)38 549 02 90 mobile": {"+41 (0)38 549 02 90": "phone"},
    "01.23.45.67.89": {"01.23.45.67.89": "phone"},
    "06-12345678": {"06-12345678": "phone"},
    "phone: 467 3395": {"467 3395": "phone"},
    "Telefon 51 516 33 75": {"51 516 33 75": "phone"},
    "电话:13812345678": {"13812345678": "phone"},
    "What is your phone number? 781 1704": {"781 1704": "phone"},
}
LEFT = (  # text in which nothing is found
    "user@localhost, @handle, a @ b, x@y", "git@github.com:owner/name.git", "ssh://git@host/x",
    "version 1.2.3.4", "section 4.1.2.3", "1.2.3.256", "1.2.3.4.5", "127.0.0.1",
    "mask 255.255.255.0", "std::vector a::b 12:34:56 ::1", "DE89370400440532013001",
    "4111 1111 1111 1112", "1234567812345670", "000-12-3456 666-12-3456 123-00-4567 123-45-0000",
    "12-345-6789", "978-0-306-40615-7 and ISBN 0-306-40615-2", "3.14159265358979", "$1,234,567.89",
    "2006-04-07 09:00", "phone me on 12/05/1999", "2019-2020", "a total of 12 345 678 people",
    "10.1038/s41586-020-2649-2",
    "arXiv:2005.14165", "phones cost 3000/200 = 15", "no calls. 21880023 came",
    "the zip code is 90010-170", "<EMAIL> <PHONE>",
)


def found(text: str, **options) -> dict[str, str]:
    return {text[a:b]: kind for a, b, kind in personal_data.find(text, **options)}


@pytest.mark.parametrize("text", FOUND)
def test_is_found(text):
    assert found(text) == FOUND[text]


@pytest.mark.parametrize("text", LEFT)
def test_is_left(text):
    assert found(text) == {}


def test_masked_and_counted():
    stage = personal_data.make(Settings())
    outcome = stage(View("Ann (ann@a.org, bob@b.org) from 8.8.8.8."))
    assert outcome == Kept("Ann (<EMAIL>, <EMAIL>) from <IP>.", {"email": 2, "ip": 1})
    assert stage(View("Nothing here.")) == Kept("Nothing here.")


def test_types_and_placeholder():
    stage = personal_data.make(Settings(types=("ip",), placeholder="[{type}]"))
    assert stage(View("a@b.org 8.8.8.8")) == Kept("a@b.org [IP]", {"ip": 1})


def test_drop():
    stage = personal_data.make(Settings(action="drop", drop_from=2))
    assert stage(View("one a@b.org")) == Kept("one a@b.org")
    assert stage(View("8.8.8.8 and a@b.org")) == Dropped("email")


def test_credentials_win_over_the_address_that_they_look_like():
    expected = {"u:p": "url_credentials", "u@host.org": "email"}
    assert found("https://u:p@host.org/ u@host.org") == expected


@settings(deadline=None)
@given(st.ip_addresses())
def test_addresses(address):
    text = f"from {address} on"
    assume(not str(address).startswith(("0.0.0.0", "127.0.0.1", "255.255.255.")))
    assume(address.version == 4 or len([g for g in str(address).split(":") if g]) > 2)
    assert found(text, types=("ip",)) == {str(address): "ip"}
    public = found(text, types=("ip",), public_ips_only=True)
    assert bool(public) == address.is_global


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.emails(domains=st.from_regex(r"[a-z]{1,9}(\.[a-z]{2,5}){1,2}", fullmatch=True)))
def test_emails(address):
    local = address.partition("@")[0]
    assume(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._+-]*[A-Za-z0-9])?", local) and local != "git")
    assert found(f"<{address}>") == {address: "email"}


@settings(deadline=None)
@given(st.integers(0, 10**10 - 1), st.sampled_from(["40", "51", "2221", "37", "6011"]))
def test_check_digits(number, prefix):
    """Of ten last digits one makes a card's number (Luhn), whatever comes before it."""
    length = 15 if prefix == "37" else 16
    body = f"{prefix}{number:010d}".ljust(length - 1, "7")
    cards = [c for c in (f"{body}{d}" for d in range(10)) if found(c, types=("credit_card",))]
    assert len(cards) == 1


@settings(deadline=None)
@given(st.text("0123456789 -.()/+@:ab=?&\n", max_size=80), st.sampled_from([("phone",), TYPES]))
def test_spans_are_apart_and_inside(text, types):
    spans = personal_data.find(text, types)
    ends = [0] + [end for _, end, _ in spans]
    assert all(end <= start < stop <= len(text) for end, (start, stop, _) in zip(
        ends[:-1], spans, strict=True))


@settings(deadline=None)
@given(st.lists(st.sampled_from([*FOUND, "and so", "\n", "on 1 May"]), max_size=6).map(" ".join))
def test_masked_text_holds_nothing_more(text):
    stage = personal_data.make(Settings())
    once = stage(View(text)).text
    assert stage(View(once)) == Kept(once)


HOSTILE = (
    "1-", "1-1-1-", "a@", "a@a.", "a@a.a.a", "12 ", "123 456 ", "01 23 ", "(01) ", "((0", "+1 ",
    "1.", "::", ":a", "a:", "http://a:b@", "?token=", "GB12", "GB12 ", "1", "4111 1111 ",
    "phone 12 345 ", "call 1234567 ", "ssn 123456789 ", "a-", "é@", "x@" + "y" * 63,
    "00 ", "a.", "-", "0",
)


def _seconds(text: str) -> float:
    begin = time.process_time()
    personal_data.find(text)
    return time.process_time() - begin


@pytest.mark.parametrize("seed", HOSTILE)
def test_time_grows_with_the_text(seed):
    """32 times the text takes about 32 times as long: 1024 times would be quadratic."""
    short, long = ((seed * (n // len(seed) + 1))[:n] for n in (10_000, 320_000))
    first = min(_seconds(short) for _ in range(3))
    assert _seconds(long) < 200 * first + 0.1


@settings(max_examples=20, deadline=None)
@given(st.text("01 -.+()@:ag/?=&", min_size=1, max_size=12))
def test_time_grows_with_any_repeated_text(seed):
    assert _seconds((seed * 60_000)[:60_000]) < 2.0  # a quadratic search takes minutes


@pytest.mark.parametrize("values, wrong", [
    ({"types": ("emial",)}, "email"), ({"types": ()}, "types is empty"),
    ({"action": "hide"}, "mask"), ({"drop_from": 0}, "drop_from=0"),
])
def test_bad_settings(values, wrong):
    with pytest.raises(UserError, match=wrong):
        personal_data.check(Settings(**values))
