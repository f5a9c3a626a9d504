"""The same models in torch: transformers' Llama and GPT-2, sized by our ModelConfig."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers

from jaxllm.models.config import ModelConfig
from jaxllm.train.config import OptimizerConfig


def causal_attention(module, query, key, value, attention_mask, scaling=None, **_):
    """SDPA told that it is causal: [B, N, T, H] in, [B, T, N, H] out.

    Under torch.compile transformers builds a mask instead, which shuts out the fast kernels.
    """
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register("causal", causal_attention)


def llama(config: ModelConfig, length: int) -> torch.nn.Module:
    """A fresh LlamaForCausalLM of these sizes with causal SDPA, in training mode."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.width,
        intermediate_size=config.mlp.width, num_hidden_layers=config.layers,
        num_attention_heads=config.attention.heads,
        num_key_value_heads=config.attention.kv_heads, head_dim=config.attention.head_dim,
        max_position_embeddings=length, rms_norm_eps=config.norm.eps,
        tie_word_embeddings=config.tied, use_cache=False, attn_implementation="causal",
    )).train()


def gpt2(config: ModelConfig, length: int) -> torch.nn.Module:
    """A fresh GPT2LMHeadModel of these sizes with SDPA attention, without dropout."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=config.vocab_size, n_embd=config.width, n_layer=config.layers,
        n_head=config.attention.heads, n_inner=config.mlp.width, n_positions=length,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, use_cache=False,
        bos_token_id=0, eos_token_id=0, attn_implementation="sdpa",
    )).train()


def parameters(model: torch.nn.Module) -> int:
    """The number of parameters, a tied one counted once."""
    return sum(p.numel() for p in model.parameters())


def make_step(
    model: torch.nn.Module, optimizer: OptimizerConfig, device: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """One training step on ids [B, T + 1]: loss, backward, clipping, fused AdamW; gives the loss.

    On a GPU the weights stay float32 and the products run in bfloat16 under autocast, as ours do.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": optimizer.weight_decay},
         {"params": others, "weight_decay": 0.0}],
        lr=optimizer.learning_rate, betas=(optimizer.b1, optimizer.b2), eps=optimizer.eps,
        fused=True,
    )
    autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def step(ids: torch.Tensor) -> torch.Tensor:
        targets = ids[:, 1:].contiguous()
        with autocast:
            # shift_labels: the targets as ours gets them, so that T tokens are trained on
            loss = model(input_ids=ids[:, :-1], labels=targets, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer.max_grad_norm)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss.detach()

    return step
