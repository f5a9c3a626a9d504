"""Small prepared corpora, made once for all data tests."""

import pytest

from .corpora import run_prepare, sentences


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """Folders `a` (300 documents), `b` (20: many epochs beside a) and `other` (another
    tokenizer), in small blocks and shards so that windows cross both."""
    root = tmp_path_factory.mktemp("corpora")
    small = {"input__document": "line", "output__block_tokens": 100,
             "output__tokens_per_shard": 2000, "split__validation_share": 0.1}
    for name, count, seed in (("a", 300, 1), ("b", 20, 2)):
        (root / f"{name}.txt").write_text("\n".join(sentences(count, seed)) + "\n")
        run_prepare(root / name, [root / f"{name}.txt"], tokenizer__kind="byte", **small)
    run_prepare(root / "other", [root / "a.txt"], tokenizer__vocab_size=300, **small)
    return root
