"""Real series of checkpoints, trained by PyTorch on the CPU: what the comparison saves.

    gpt        a GPT from scratch, 7.1 million weights, from 1e-3, a save every 40 steps: everything moves, far
    finetune   all-MiniLM-L6-v2, 22.7 million, from 2e-5, a save every 10 steps: everything moves, a little
    frozen     the same, only the last two of six layers train
    lora       the same, adapters of rank 8 on queries and values train, from 1e-3, and are saved merged

AdamW, at a rate that falls linearly to zero. Each in three forms: `fp32` and `bf16` as safetensors, `pt` with the state
of AdamW. The seeds are fixed and one thread counts, so a machine makes the same bytes again; another one, or another
Python, makes others.
"""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from benchmarks.weights.models import Weights

Saved: TypeAlias = "tuple[int, Weights, Any]"  # step, the model, the optimizer

FORMS = ("fp32", "bf16", "pt")
CHECKPOINTS = 12
SEED = 1


def files_of(folder: Path, name: str, form: str) -> list[Path]:
    """Return a series' files, from the first step to the last."""
    return sorted((folder / name / form).iterdir())


def generate(folder: Path, names: list[str], checkpoints: int = CHECKPOINTS) -> None:
    """Train and write every series that the folder does not have; tell of each."""
    for name in names:
        if (folder / name).exists():
            print(f"{name:10} is there")
            continue
        start = time.perf_counter()
        part = folder / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        for form in FORMS:
            (part / form).mkdir(parents=True)
        for step, weights, optimizer in SERIES[name](checkpoints):
            _write(part, step, weights, optimizer)
        part.rename(folder / name)
        size = sum(path.stat().st_size for path in (folder / name).rglob("*.*"))
        print(f"{name:10} made in {time.perf_counter() - start:.0f} s, {size / 1e6:,.0f} MB", flush=True)


def _write(folder: Path, step: int, weights: Weights, optimizer: Any) -> None:
    import torch
    from safetensors.torch import save_file

    name = f"step-{step:05}"
    model = {key: tensor.detach() for key, tensor in weights.items()}
    save_file(model, folder / "fp32" / f"{name}.safetensors")
    save_file({key: tensor.bfloat16() for key, tensor in model.items()}, folder / "bf16" / f"{name}.safetensors")
    state = {"model": model, "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, folder / "pt" / f"{name}.pt")


def _trained(
    loss_of: Callable[[], Any], trained: Weights, rate: float, steps: int, checkpoints: int
) -> Iterator[tuple[int, Any]]:
    """Train; yield the step and the optimizer after every so many steps. The rate falls to zero."""
    import torch

    torch.set_num_threads(1)  # sums are in one order, whatever the machine
    torch.use_deterministic_algorithms(True)
    for tensor in trained.values():
        tensor.requires_grad_()
    optimizer = torch.optim.AdamW(list(trained.values()), lr=rate)
    last, losses = steps * checkpoints, []
    for step in range(1, last + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - (step - 1) / last)
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % steps == 0:
            yield step, optimizer
    first, final = statistics.mean(losses[:steps]), statistics.mean(losses[-steps:])
    print(f"loss {first:.3f} in the first {steps} steps, {final:.3f} in the last", flush=True)


def _gpt(checkpoints: int) -> Iterator[Saved]:
    from benchmarks.weights.models import batch_of, gpt_loss, new_gpt
    from benchmarks.weights.text import sources

    weights, text, rng = new_gpt(SEED), b"\n".join(sources()), random.Random(SEED)
    for step, optimizer in _trained(lambda: gpt_loss(weights, batch_of(text, rng, 6)), weights, 1e-3, 40, checkpoints):
        yield step, weights, optimizer


def _finetune(checkpoints: int) -> Iterator[Saved]:
    from benchmarks.weights.models import bert_loss, pretrained_bert

    weights, batches = pretrained_bert(), _batches()
    for step, optimizer in _trained(lambda: bert_loss(weights, *next(batches)), weights, 2e-5, 10, checkpoints):
        yield step, weights, optimizer


def _frozen(checkpoints: int) -> Iterator[Saved]:
    from benchmarks.weights.models import bert_loss, pretrained_bert

    weights, batches = pretrained_bert(), _batches()
    trained = {name: one for name, one in weights.items() if name.startswith(("encoder.layer.4.", "encoder.layer.5."))}
    for step, optimizer in _trained(lambda: bert_loss(weights, *next(batches)), trained, 2e-5, 10, checkpoints):
        yield step, weights, optimizer


def _lora(checkpoints: int) -> Iterator[Saved]:
    from benchmarks.weights.models import bert_loss, merged_lora, new_lora, pretrained_bert

    weights, batches = pretrained_bert(), _batches()
    adapters = new_lora(weights, SEED)

    def loss() -> Any:
        return bert_loss(merged_lora(weights, adapters), *next(batches))

    for step, optimizer in _trained(loss, adapters, 1e-3, 10, checkpoints):
        yield step, merged_lora(weights, adapters), optimizer


def _batches() -> Iterator[tuple[Any, Any]]:
    """Yield functions and their docstrings, eight at a time, for ever."""
    import torch

    from benchmarks.weights.models import BERT_CONTEXT, pretrained_folder
    from benchmarks.weights.text import pairs, token_ids

    words = (pretrained_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(words)}
    known = [tuple(token_ids(side, vocabulary, BERT_CONTEXT) for side in pair) for pair in pairs()]
    rng = random.Random(SEED)
    while True:
        chosen = rng.sample(known, 8)
        yield torch.tensor([left for left, _ in chosen]), torch.tensor([right for _, right in chosen])


SERIES: dict[str, Callable[[int], Iterator[Saved]]] = {
    "gpt": _gpt,
    "finetune": _finetune,
    "frozen": _frozen,
    "lora": _lora,
}
