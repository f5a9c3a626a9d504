"""What English writes together and spaCy's tokenizer splits, or splits and it keeps together.

`EXCEPTIONS` maps a text to its tokens. Contractions are built from their families, with either
apostrophe and, as many people write them, without one.
"""

from __future__ import annotations

WH = "who what when where why how there that this these those"
MODALS = "could might must should would"
FAMILIES = (  # words, then their endings: "+" cuts an ending into tokens
    ("i", "'m 'm+a"),
    ("i you he she it we they", "'ll 'll+'ve 'd 'd+'ve"),
    ("i you we they", "'ve"),
    ("you we they", "'re"),
    ("he she it", "'s"),
    (WH, "'ll 'll+'ve 'd 'd+'ve"),
    ("who what when where why how there that this", "'s"),
    ("who what when where why how there these those", "'re 've"),
    (f"ca do does did had may need ought sha wo {MODALS}", "n't n't+'ve"),
    (MODALS, "'ve"),
    ("ai are is was were have has dare", "n't"),
    ("not", "'ve"),
)
WORDS_THEMSELVES = "ill its hell shell shed were well whore"
SPLIT = (
    "y'|all y|all how|'d|'y How|'d|'y can|not Can|not gon|na Gon|na got|ta Got|ta let|'s Let|'s "
    "c'm|on C'm|on"
)
DROPPED = "doin goin nothin nuthin ol somethin lovin havin"  # with or without the apostrophe
WHOLE = (
    "' '' 'em em 'll ll 'nuff nuff 'S 's and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz "
    "'Cuz 'bout ma'am Ma'am o'clock O'clock 'd \\t \\n <space> C++ \\\") — ‘S ‘s"
)
ABBREVIATIONS = (
    "Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. "
    "Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. "
    "N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. a.m. Adm. "
    "Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. "
    "Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. a. b. c. d. e. "
    "f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü."
)
EMOTICONS = (
    ":) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) "
    "(; (-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ "
    ":1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D "
    ";-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v V_V o_o "
    "o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) "
    "(>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>"
)


def _exceptions() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}

    def add(*tokens: str) -> None:
        for each in (tokens, tuple(token.replace("'", "’") for token in tokens)):
            found["".join(each)] = each

    for words, endings in FAMILIES:
        for word in words.split():
            for first in (word, word.title()):
                for ending in endings.split():
                    add(first, *ending.split("+"))
                    add(first, *ending.replace("'", "").split("+"))
    for word in WORDS_THEMSELVES.split():
        found.pop(word, None)
        found.pop(word.title(), None)
    for tokens in SPLIT.split():
        add(*tokens.split("|"))
    for word in DROPPED.split():
        for whole in (word, word.title(), f"{word}'", f"{word}'".title()):
            add(whole)
    for whole in f"{WHOLE} {ABBREVIATIONS} {EMOTICONS}".split():
        add(whole)
    for hour in range(1, 13):
        for half in ("a.m.", "am", "p.m.", "pm"):
            add(str(hour), half)
    for scale in "cfkCFK":
        add("°", scale, ".")
    return found


EXCEPTIONS = _exceptions()
