"""`fill_mask` of a random BERT gives what transformers' pipeline gives."""

import numpy as np
import pytest

import jaxllm

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "rate", "rose", "fell", "again", "."]


def test_the_same_tokens_and_scores_as_transformers(tmp_path):
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    torch.manual_seed(0)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=24, initializer_range=0.5,
    )).save_pretrained(tmp_path)
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    model = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    theirs = transformers.FillMaskPipeline(model=model, tokenizer=tokenizer, device="cpu")
    ours = jaxllm.load(str(tmp_path))
    for text in ("the rate [MASK] .", "the [MASK] fell again ."):
        [[filled]] = ours.fill_mask(text, top=4)
        expected = theirs(text, top_k=4)
        assert [one.id for one in filled] == [other["token"] for other in expected]
        assert [one.text for one in filled] == [other["token_str"] for other in expected]
        np.testing.assert_allclose(
            [one.probability for one in filled], [other["score"] for other in expected], 1e-4
        )
