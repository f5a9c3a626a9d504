"""Counting the steps of a function, which no load on the machine changes, unlike its time."""

import re._parser as parser
import sys
from re._constants import MAX_REPEAT, MAXREPEAT, MIN_REPEAT

HOSTILE = (  # pieces that, repeated, have led regular expressions and splitters astray
    "a", "a ", "!", ".", "a.", "..a", "-", "a-", "(", "('", "''", "'s", "@", "a@", "a:@", "a.b@",
    "http://", "/", "1", "1.", "[1", "[", "{", "*** START OF THIS PROJECT GUTENBERG ", "\n", "\r",
    "a\n", "\x85", "Ã", "Ã\x82", "â€", "e\u0301", "\u0301", "\ud800", "…", "use cookies ", "日本",
)


def steps(function, *arguments) -> int:
    """The lines of Python that run, those of comprehensions at each round."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return count


def grows_linearly(function, size: int) -> bool:
    """Whether twice the input takes at most about twice the steps (a quadratic takes four times).

    `function` takes the size of its input; a first call fills what is remembered.
    """
    function(size)
    function(2 * size)
    return steps(function, 2 * size) <= 2.5 * steps(function, size) + 300


def loops_in_loops(pattern) -> bool:
    """Whether a regular expression has an unbounded repeat inside another: it may blow up."""

    def unbounded(parsed, inside: bool) -> bool:
        for name, value in parsed:
            if name in (MAX_REPEAT, MIN_REPEAT):
                loop = value[1] is MAXREPEAT
                if (loop and inside) or unbounded(value[2], inside or loop):
                    return True
            elif isinstance(value, (list, tuple)):
                for part in value:
                    parts = part if isinstance(part, list) else [part]
                    if any(
                        unbounded(each, inside) for each in parts
                        if isinstance(each, parser.SubPattern)
                    ):
                        return True
        return False

    return unbounded(parser.parse(pattern.pattern, pattern.flags), False)
