"""Configuration is strict: each wrong key, type and variant is refused with the nearest fix.

Compared with hand-written values; nothing here touches jax.
"""

from dataclasses import dataclass, field

import pytest
from ml_collections import ConfigDict

from jaxllm.core.config import (
    Wide,
    apply_overlay,
    check_ranges,
    check_variant,
    difference,
    overlay,
    reject_unread,
    resolve,
    to_config_dict,
    to_dict,
)
from jaxllm.core.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str = "a"
    count: int = 3
    on: bool = False
    bytes: Wide = 5
    inner: Inner = field(default_factory=Inner)
    parts: dict[str, Inner] = field(default_factory=dict)


def test_resolve_turns_a_config_dict_into_the_dataclass():
    config = to_config_dict(Outer())
    config.count = 4
    config.bytes = 2**70
    config.inner.rate = 2  # an int where a float is due
    config.inner.sizes = [7]
    config.parts.left = to_config_dict(Inner(rate=0.25))
    assert resolve(Outer, config) == Outer(
        count=4, bytes=2**70, inner=Inner(2.0, (7,)), parts={"left": Inner(0.25)}
    )
    assert isinstance(resolve(Outer, config).inner.rate, float)


def test_to_dict_and_back():
    value = Outer(parts={"x": Inner(sizes=())})
    assert resolve(Outer, to_dict(value)) == value
    assert resolve(Outer, {"count": 9}) == Outer(count=9)  # what is absent keeps its default


@pytest.mark.parametrize(("values", "message"), [
    ({"cuont": 1}, r"config\.cuont is no known field.*'count'"),
    ({"inner": {"rat": 1.0}}, r"config\.inner\.rat .*'rate'"),
    ({"parts": {"x": {"ratee": 1.0}}}, r"config\.parts\.x\.ratee .*'rate'"),
    ({"zzzz": 1}, r"Choose one of: bytes, count, inner, name, on, parts"),
    ({"count": 1.5}, r"config\.count=1\.5 .*must be int, not float"),
    ({"count": True}, r"must be int, not bool"),
    ({"count": 2**31}, r"config\.count=2147483648 must lie between -2147483647 and 2147483647"),
    ({"count": -(10**20)}, r"config\.count=-10+ must lie between"),
    ({"inner": {"sizes": (1, 10**20)}}, r"config\.inner\.sizes=10+ must lie between"),
    ({"bytes": 1.0}, r"must be int, not float"),
    ({"on": 1}, r"must be bool, not int"),
    ({"name": None}, r"must be str, not NoneType"),
    ({"inner": {"rate": "x"}}, r"config\.inner\.rate='x'.*must be float, not str"),
    ({"inner": {"rate": True}}, r"must be float, not bool"),
    ({"inner": 3}, r"config\.inner=3 must be a section"),
    ({"inner": {"sizes": 3}}, r"config\.inner\.sizes=3 must be a tuple, such as \(3,\)"),
    ({"inner": {"sizes": (1, "b")}}, r"config\.inner\.sizes='b'.*must be int, not str"),
])
def test_resolve_refuses(values, message):
    with pytest.raises(UserError, match=message):
        resolve(Outer, ConfigDict(values))


def test_overlay_changes_only_what_is_set():
    base = Outer(count=8, inner=Inner(0.75, (9,)))
    changes = overlay(Outer)
    assert apply_overlay(base, changes, "m") == base
    changes.inner.rate = 1
    changes.on = True
    assert apply_overlay(base, changes, "m") == Outer(count=8, on=True, inner=Inner(1.0, (9,)))


@pytest.mark.parametrize(("changes", "message"), [
    ({"coun": 1}, r"m\.coun is no known field.*'count'"),
    ({"inner": {"rte": 1}}, r"m\.inner\.rte .*'rate'"),
    ({"count": "x"}, r"m\.count='x' .*must be int"),
])
def test_overlay_is_strict(changes, message):
    with pytest.raises(UserError, match=message):
        apply_overlay(Outer(), ConfigDict(changes), "m")


def test_overlay_placeholders_keep_the_type():
    changes = overlay(Outer)
    with pytest.raises(TypeError):
        changes.count = "many"


def test_difference_names_what_changed_alphabetically():
    default, config = to_config_dict(Outer()), to_config_dict(Outer())
    assert difference(config, default) == {}
    config.inner.sizes = (5,)
    config.name = "b"
    config.parts.left = to_config_dict(Inner())
    assert list(difference(config, default).items()) == [
        ("inner.sizes", (5,)), ("name", "b"),
        ("parts.left.rate", 0.5), ("parts.left.sizes", (1, 2)),
    ]


def test_reject_unread_only_refuses_what_was_set():
    reject_unread(Inner(), {"rate"}, "kind='x'", "inner")
    reject_unread(Inner(rate=3.0), {"rate"}, "kind='x'", "inner")
    with pytest.raises(UserError, match=r"inner\.sizes=\(4,\) has no effect: kind='x'.*rate"):
        reject_unread(Inner(sizes=(4,)), {"rate"}, "kind='x'", "inner")


def test_check_variant():
    check_variant("", ("debug",))
    check_variant("debug", ("debug",))
    with pytest.raises(UserError, match=r"no variant 'dbug'.*'debug'"):
        check_variant("dbug", ("debug", "gpu"))


@pytest.mark.parametrize(("interval", "good", "bad", "words"), [
    ("[0, 1)", (0.0, 0.9), (-0.1, 1.0), "at least 0 and below 1"),
    ("(0, 1]", (0.1, 1.0), (0.0, 1.1), "above 0 and at most 1"),
    ("(0, inf)", (1e-30, 1e30), (0.0, float("inf")), "above 0"),
    ("[0, inf)", (0.0,), (-1e-9, float("nan"), float("-inf")), "at least 0"),
])
def test_ranges(interval, good, bad, words):
    for value in good:
        check_ranges(Outer(inner=Inner(value)), "m", {"inner.rate": interval})
    for value in bad:
        with pytest.raises(UserError, match=rf"^m\.inner\.rate={value} must be .*{words}\.$"):
            check_ranges(Outer(inner=Inner(value)), "m", {"inner.rate": interval})
