"""One training step of the Shakespeare recipe's GPT (4 layers, width 128, context 64, batch 12, AdamW): ours and PyTorch's.

    python benchmarks/gpt_step.py [--threads 2] [--rounds 9]

PyTorch eager uses its own fused attention; both clip gradients by their global norm. Needs the `bench` extra for PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from harness import main

LAYERS, HEADS, WIDTH, CONTEXT, BATCH, SYMBOLS = 4, 4, 128, 64, 12, 65


def tokens() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(0, SYMBOLS, (BATCH, CONTEXT)), generator.integers(0, SYMBOLS, (BATCH, CONTEXT))


def mainspring(threads: int) -> Callable[[], object]:
    import mainspring as ms
    from mainspring.data import Vocabulary
    from mainspring.recipes import shakespeare
    from mainspring.train import TrainState, training_step

    config = shakespeare.Config()
    model = shakespeare.model(config, Vocabulary.of("".join(map(chr, range(32, 32 + SYMBOLS)))))
    optimizer = shakespeare.optimizer(config)
    step = ms.jit(training_step(shakespeare.loss, optimizer), donate=0)
    inputs, targets = (ms.asarray(x.astype(np.int32)) for x in tokens())
    state = [TrainState(ms.asarray(np.int32(0)), model, optimizer.init(model), ms.random.key(0))]

    def run() -> float:
        state[0], metrics = step(state[0], {"inputs": inputs, "targets": targets})
        return float(metrics["loss"])

    return run


def pytorch_eager(threads: int) -> Callable[[], object]:
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(threads)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

        def forward(self, x: Any) -> Any:
            q, k, v = (t.view(BATCH, CONTEXT, HEADS, WIDTH // HEADS).transpose(1, 2)
                       for t in self.qkv(self.first(x)).split(WIDTH, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(BATCH, CONTEXT, WIDTH)
            x = x + self.out(y)
            return x + self.down(F.gelu(self.up(self.second(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.position = nn.Embedding(SYMBOLS, WIDTH), nn.Parameter(torch.zeros(CONTEXT, WIDTH))
            self.blocks, self.norm = nn.Sequential(*[Block() for _ in range(LAYERS)]), nn.LayerNorm(WIDTH)

        def forward(self, x: Any) -> Any:
            return self.norm(self.blocks(self.embedding(x) + self.position)) @ self.embedding.weight.T

    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    inputs, targets = (torch.from_numpy(x) for x in tokens())

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(inputs).view(-1, SYMBOLS), targets.view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


if __name__ == "__main__":
    main(__doc__, {"mainspring": mainspring, "torch eager": pytorch_eager}, runs=10)
