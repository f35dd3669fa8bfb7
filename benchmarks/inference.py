"""Inference: the GPT of `gpt_step`, reading a prompt and then token by token, and the network of `cnn_step`; batch 1 and 32.

Weights never change here, and every peer that can make use of that is told so: they are initializers of the graph in ONNX
Runtime, and jitted functions close over them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Case, Family, Workload
from benchmarks.models import cnn, gpt

PROMPT, CHECKS = 32, 4


def _gpt(kind: str, batch: int, extra: bool = False, **sizes: int) -> Case:
    size = gpt.Size(batch=batch, **sizes)
    reading = kind == "prompt"
    operations = size.forward_operations() if reading else size.forward_operations() / size.context
    bytes_of_weights = 4.0 * size.width * (12 * size.layers * size.width + size.symbols)
    bytes_of_cache = 4.0 * 2 * size.layers * batch * size.width * (PROMPT + size.context) / 2
    name = f"GPT {kind}, {size.layers} layers, width {size.width}, batch {batch}"
    return Case(name, {"kind": kind, "gpt": size}, operations, 0 if reading else bytes_of_weights + bytes_of_cache, extra=extra)


def _cnn(batch: int, extra: bool = False, channels: tuple[int, ...] = (32, 64, 128)) -> Case:
    size = cnn.Size(channels, batch)
    name = f"CNN {'-'.join(map(str, channels))}, batch {batch}"
    return Case(name, {"kind": "cnn", "cnn": size}, size.forward_operations(), extra=extra)


class Conversation:
    """The places that a token goes to: behind a prompt of `PROMPT` tokens, and again from there when the context is full."""

    def __init__(self, size: gpt.Size):
        self.tokens, self.size, self.place = gpt.tokens(size)[0], size, PROMPT

    def next(self) -> tuple[np.ndarray, int, bool]:
        """The token of each text (B, 1), its place, and whether that is the first one behind the prompt."""
        if self.place == self.size.context:
            self.place = PROMPT
        place, self.place = self.place, self.place + 1
        return self.tokens[:, place : place + 1], place, place == PROMPT


# ------------------------------------------------------------------------------------------------------- mainspring


def mainspring(case: Case) -> Workload:
    import mainspring as ms

    if case.sizes["kind"] == "cnn":
        network, images = cnn.mainspring(case.sizes["cnn"]), ms.asarray(cnn.batch(case.sizes["cnn"])[0])
        predict = ms.jit(lambda x: network(x))
        return Workload(lambda: predict(images))
    size = case.sizes["gpt"]
    model, conversation = gpt.mainspring(size), Conversation(size)
    read = ms.jit(lambda caches, tokens: model.decode(tokens, caches))
    empty = model.caches(size.batch, size.context)
    if case.sizes["kind"] == "prompt":
        prompt = ms.asarray(conversation.tokens.astype(np.int32))
        return Workload(lambda: read(empty, prompt)[0])
    write = ms.jit(lambda caches, tokens: model.decode(tokens, caches), donate=0)
    state = [read(empty, ms.asarray(conversation.tokens[:, :PROMPT].astype(np.int32)))[1]]

    def run() -> Any:
        token, place, first = conversation.next()
        if first:
            state[0] = tuple(type(c)(c.keys, c.values, ms.asarray(np.int32(place))) for c in state[0])
        scores, state[0] = write(state[0], ms.asarray(token.astype(np.int32)))
        return scores

    return Workload(run, CHECKS)


# ------------------------------------------------------------------------------------------------------------ torch


def torch_eager(case: Case) -> Workload:
    import torch

    if case.sizes["kind"] == "cnn":
        network, images = cnn.torch(case.sizes["cnn"]).eval(), cnn.torch_images(case.sizes["cnn"])
        return Workload(torch.inference_mode()(lambda: network(images)))
    size, conversation = case.sizes["gpt"], Conversation(case.sizes["gpt"])
    model = gpt.torch(size).eval()
    caches = [tuple(torch.zeros(size.batch, size.heads, size.context, size.width // size.heads) for _ in range(2))
              for _ in range(size.layers)]
    decode = torch.inference_mode()(lambda tokens, place: gpt.torch_decode(model, torch.from_numpy(tokens), caches, place))
    if case.sizes["kind"] == "prompt":
        return Workload(lambda: decode(conversation.tokens, 0))
    decode(conversation.tokens[:, :PROMPT], 0)
    return Workload(lambda: decode(*conversation.next()[:2]), CHECKS)


# -------------------------------------------------------------------------------------------------------------- jax


def jax(case: Case) -> Workload:
    import jax
    import jax.numpy as jnp

    if case.sizes["kind"] == "cnn":
        w, statistics = (jax.tree.map(jnp.array, tree) for tree in cnn.jax_parameters(case.sizes["cnn"]))
        images = jnp.asarray(cnn.batch(case.sizes["cnn"])[0])
        predict = jax.jit(lambda x: cnn.jax_forward(w, statistics, x, training=False)[0])
        return Workload(lambda: predict(images).block_until_ready())
    size, conversation = case.sizes["gpt"], Conversation(case.sizes["gpt"])
    w = jax.tree.map(jnp.array, gpt.weights(size))
    shape = (size.batch, size.context, size.heads, size.width // size.heads)
    empty = [(jnp.zeros(shape), jnp.zeros(shape)) for _ in range(size.layers)]
    read = jax.jit(lambda caches, tokens, place: gpt.jax_decode(w, tokens, caches, place, size.heads))
    if case.sizes["kind"] == "prompt":
        prompt = jnp.asarray(conversation.tokens)
        return Workload(lambda: jax.block_until_ready(read(empty, prompt, 0))[0])
    write = jax.jit(lambda caches, tokens, place: gpt.jax_decode(w, tokens, caches, place, size.heads), donate_argnums=0)
    state = [read(empty, jnp.asarray(conversation.tokens[:, :PROMPT]), 0)[1]]

    def run() -> Any:
        token, place, _ = conversation.next()
        scores, state[0] = jax.block_until_ready(write(state[0], token, place))
        return scores

    return Workload(run, CHECKS)


# ------------------------------------------------------------------------------------------------------------- onnx


def onnx_runtime(case: Case) -> Workload:
    if case.sizes["kind"] == "cnn":
        network = cnn.onnx(case.sizes["cnn"])
        feed = {"x": np.ascontiguousarray(cnn.batch(case.sizes["cnn"])[0].transpose(0, 3, 1, 2))}
        return Workload(lambda: network.run(None, feed)[0])
    size, conversation = case.sizes["gpt"], Conversation(case.sizes["gpt"])
    decoder = gpt.OnnxDecoder(size)
    if case.sizes["kind"] == "prompt":
        return Workload(lambda: decoder.decode(conversation.tokens, 0))
    decoder.decode(conversation.tokens[:, :PROMPT], 0)
    return Workload(lambda: decoder.decode(*conversation.next()[:2]), CHECKS)


FAMILY = Family(
    "inference",
    "reading a prompt, token by token with a key-value cache, images; float32",
    (
        *(_gpt(kind, batch) for kind in ("prompt", "token") for batch in (1, 32)),
        *(_cnn(batch) for batch in (1, 32)),
        *(_gpt(kind, batch, extra=True, layers=3, width=384, heads=6, context=96)
          for kind in ("prompt", "token") for batch in (1, 5)),
        *(_gpt("token", batch, extra=True, layers=4, width=768, heads=12, context=256) for batch in (1, 4)),
        *(_cnn(batch, extra=True, channels=(24, 48, 96)) for batch in (1, 7)),
    ),
    {"mainspring": mainspring, "torch eager": torch_eager, "jax": jax, "onnx runtime": onnx_runtime},
    tolerance=1e-4,
)
