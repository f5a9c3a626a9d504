"""How a preview spells tokens: colours, marks, and nothing in a text that acts on the screen."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from jaxllm.core.display import visible
from jaxllm.data.tokenizers import StreamDecoder, Tokenizer

COLOURS = ("cyan", "yellow", "green", "magenta", "bright_blue", "bright_red")
UNTRAINED = "dim strike"
PADDING = "black on bright_black"
SEEN = str.maketrans({" ": "␣", "\t": "⇥"})  # a space that is struck cannot be seen otherwise


def special_names(tokenizer: Tokenizer) -> dict[int, str]:
    """How special tokens are shown."""
    names = {token: tokenizer.token_text(token) for token in tokenizer.special_ids}
    names.update((token, f"<extra_id_{i}>") for i, token in enumerate(tokenizer.sentinel_ids))
    for role in ("unk", "pad", "bos", "sep", "cls", "mask"):
        names[getattr(tokenizer, f"{role}_id")] = f"<{role}>"
    return {**names, tokenizer.eos_id: "¶"}


def spelled(ids: Iterable[int], decoder: StreamDecoder, names: dict[int, str]) -> str:
    """The text of tokens that follow those the decoder has seen, special ones by name."""
    return "".join(
        names[token] if token in names else decoder.push([token]) for token in map(int, ids)
    )


def padded(text: Text, padding: int) -> Text:
    """The text, and how many places of the row have none."""
    return text.append(f" {padding} of padding ", PADDING) if padding else text


def made_visible(text: str, trained: bool) -> str:
    """Control characters made visible, so that nothing in a text can move the cursor."""
    text = text if trained else text.translate(SEEN)
    return visible(text).replace("\n", "⏎\n")
