"""Common English words replaced by others of nearly the same meaning (after Wei and Zou 2019, EDA).

The table is our own, small and dedicated to the public domain. Every word of a group may stand for
every other in most sentences; words of several senses are left out.
"""

from __future__ import annotations

import numpy as np

from jaxllm.data.perturb._pieces import each_word, like, pick

GROUPS = tuple(tuple(line.split()) for line in """
big large huge
small little tiny
quick fast rapid
quickly rapidly swiftly
slow sluggish
slowly gradually
happy glad pleased
sad unhappy
angry furious
begin start commence
begins starts commences
began started commenced
finish complete
buy purchase
buys purchases
bought purchased
help assist aid
helps assists aids
helped assisted aided
show display
shows displays
showed displayed
need require
needs requires
needed required
get obtain
gets obtains
got obtained
give provide
gives provides
gave provided
ask inquire
asked inquired
answer reply
answers replies
answered replied
important crucial vital
difficult hard tough
easy simple
rich wealthy
poor impoverished
smart clever intelligent
stupid foolish
beautiful lovely pretty
ugly unsightly
good fine
bad poor
great excellent superb
terrible awful dreadful
strange odd weird
famous renowned
enough sufficient
maybe perhaps possibly
often frequently
usually generally normally
rarely seldom
almost nearly
about roughly
also too
however nevertheless
therefore thus hence
but yet
because since
while whereas
many numerous
several various
people persons
child kid
children kids
car automobile
house home
job position
money cash funds
problem issue difficulty
problems issues difficulties
error mistake
errors mistakes
idea notion
ideas notions
road street
shop store
shops stores
movie film
movies films
doctor physician
doctors physicians
illness disease sickness
company firm
companies firms
price cost
prices costs
increase rise
increases rises
increased rose
decrease decline
decreases declines
decreased declined
use employ utilise
uses employs utilises
used employed utilised
try attempt
tries attempts
tried attempted
choose select pick
chose selected picked
keep retain
keeps retains
kept retained
fix repair
fixed repaired
build construct
builds constructs
built constructed
speak talk
speaks talks
spoke talked
watch observe
watched observed
wrong incorrect
right correct
true accurate
entire whole
modern contemporary
ancient old
""".strip().splitlines())

TABLE: dict[str, tuple[str, ...]] = {}
for _group in GROUPS:
    for _word in _group:
        if _word not in TABLE:  # the first group is the word's commonest sense
            TABLE[_word] = tuple(other for other in _group if other != _word)


def perturb(text: str, strength: float, rng: np.random.Generator) -> str:
    """Replaces each word of the table at the rate `strength`, in the same case."""
    def change(word: str) -> str:
        others = TABLE.get(word.lower())
        return like(word, pick(rng, others)) if others else word

    return each_word(text, strength, rng, change)
