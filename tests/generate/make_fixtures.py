"""Makes what generation is compared with: tiny random models, and what transformers writes.

`python -m tests.generate.make_fixtures` in the project's root writes the folders anew. Weights are
such that texts differ from prompt to prompt and do not repeat one token.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers

FOLDER = Path(__file__).parent / "fixtures"
BOS, EOS, PAD = 1, 2, 3
TOKENS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
PROMPTS = ([7, 12, 9, 30], [21], [11, 40, 8, 33, 27, 16, 19, 38, 10])
CAUSAL = "AutoModelForCausalLM"
SEQUENCES = "AutoModelForSeq2SeqLM"
# name: (configuration, class, options, standard deviation of the weights, seed)
MODELS = {
    "llama": ("LlamaConfig", CAUSAL, {
        "vocab_size": 43, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    }, 0.25, 7),
    "gpt2": ("GPT2Config", CAUSAL, {
        "vocab_size": 43, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64,
    }, 2.0, 1),
    "gemma2": ("Gemma2Config", CAUSAL, {
        "vocab_size": 43, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 10, "intermediate_size": 24, "sliding_window": 5,
        "query_pre_attn_scalar": 7, "attn_logit_softcapping": 9.0,
        "final_logit_softcapping": 11.0, "max_position_embeddings": 64,
    }, 0.5, 5),
    "bloom": ("BloomConfig", CAUSAL, {
        "vocab_size": 43, "hidden_size": 16, "n_layer": 2, "n_head": 4,
    }, 1.0, 9),
    "t5": ("T5Config", SEQUENCES, {
        "vocab_size": 43, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3,
        "num_decoder_layers": 2, "num_heads": 3, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 9, "decoder_start_token_id": 5,
    }, 2.0, 4),
    "flan": ("T5Config", SEQUENCES, {  # an output projection of its own
        "vocab_size": 43, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 3,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        "decoder_start_token_id": 5,
    }, 1.0, 1),
    "bart": ("BartConfig", SEQUENCES, {
        "vocab_size": 43, "d_model": 16, "encoder_layers": 2, "decoder_layers": 3,
        "encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 20,
        "decoder_ffn_dim": 24, "max_position_embeddings": 64, "decoder_start_token_id": 5,
        "forced_eos_token_id": None,
    }, 0.25, 8),
}
SETTINGS = {
    "greedy": {"max_new_tokens": 20},
    "beams": {"max_new_tokens": 18, "num_beams": 3, "length_penalty": 0.6},
}
# other programs: of two models only
MORE = {
    "longer": {"max_new_tokens": 18, "num_beams": 4, "length_penalty": 2.0,
               "early_stopping": True},
    "never": {"max_new_tokens": 12, "num_beams": 4, "length_penalty": 1.3,
              "early_stopping": "never"},
    "many ends": {"max_new_tokens": 15, "num_beams": 3, "length_penalty": -0.5,
                 "eos_token_id": [EOS, 21, 24, 28]},
}
FORCED = {
    "forced": {"max_new_tokens": 9, "num_beams": 3, "length_penalty": 0.8,
               "forced_bos_token_id": 13, "forced_eos_token_id": EOS},
    "forced greedy": {"max_new_tokens": 9, "forced_bos_token_id": 13, "forced_eos_token_id": EOS},
}


def main():
    """Writes a folder for each model."""
    for name, (config, kind, options, scale, seed) in MODELS.items():
        torch.manual_seed(seed)
        config = getattr(transformers, config)(**options, **TOKENS)
        model = getattr(transformers, kind).from_config(config, attn_implementation="eager").eval()
        if name == "flan":
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        randomise(model, options["vocab_size"], scale)
        settings = {**SETTINGS, **{"bart": FORCED, "llama": MORE, "t5": MORE}.get(name, {})}
        found = {}
        for setting, how in settings.items():
            found[setting] = {"how": how, "texts": [written(model, ids, how) for ids in PROMPTS]}
        folder = FOLDER / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink()
        (folder / "expected.json").write_text(json.dumps({"prompts": PROMPTS, **found}) + "\n")


def randomise(model, vocab_size, scale):
    """Weights with which no token is followed by itself again and again."""
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            scaling = "norm" in name or "ln_" in name
            mean = 1.0 if scaling and name.endswith("weight") else 0.0
            torch.nn.init.normal_(tensor, mean, std=0.2)
        else:
            torch.nn.init.normal_(tensor, std=0.3 if tensor.shape[0] == vocab_size else scale)


@torch.no_grad()
def written(model, ids, how):
    """The new tokens of one prompt, without start, padding and end."""
    ids = [*ids, EOS] if model.config.is_encoder_decoder else ids
    tokens = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False, **how,
    )[0].tolist()
    new = tokens[1 if model.config.is_encoder_decoder else len(ids):]
    ends = how.get("eos_token_id", [EOS])
    return new[: next((i for i, token in enumerate(new) if token in ends), len(new))]


if __name__ == "__main__":
    main()
