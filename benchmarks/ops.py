"""One op, its gradient, or a small model at a time, at a few shapes each: where is Mainspring behind PyTorch's kernels?

    mainspring bench ops --size all --rounds 3        all of them;  --size sort  those whose names hold "sort"

A row of a table says what is computed twice, of the same arrays in the same layout: channels last, kernels (*window, in, out).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import Case, Family, Workload

Shape = tuple[int, ...]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Integers:
    """An operand of integers from 0 to `below`, exclusive."""

    shape: Shape
    below: int


@dataclass(frozen=True)
class Entry:
    """What is computed. `ours(ms, *operands)` and `theirs(torch, *operands)`; `main`: it belongs to a plain run."""

    name: str
    operands: tuple[Shape | Integers, ...]
    ours: Function
    theirs: Function
    gradient: bool = False  # of the sum of its cubes, to all float operands
    main: bool = False


def _label(shapes: Sequence[Shape | Integers]) -> str:
    first = shapes[0] if isinstance(shapes[0], tuple) else shapes[0].shape
    return "x".join(map(str, first))


def rows(name: str, shapes: Sequence[Any], ours: Function, theirs: Function | None = None, *, forward: bool = True,
         gradient: bool = False, main: bool = False) -> list[Entry]:
    """An entry for each of `shapes` (a shape for one operand, or a list of operands), and one for its gradient."""
    found = []
    for number, shape in enumerate(shapes):
        operands = tuple(shape) if isinstance(shape, list) else (shape,)
        for wanted, of in ((forward, False), (gradient, True)):
            if wanted:
                found.append(Entry(f"{name}{' gradient' * of} {_label(operands)}", operands, ours, theirs or ours, of,
                                   main and number == 0))
    return found


# ---------------------------------------------------------------------------------------------------- layouts of torch


def _planes(x: Any) -> Any:
    return x.permute(0, 3, 1, 2)


def _pixels(x: Any) -> Any:
    return x.permute(0, 2, 3, 1)


def _pooled(kind: str, x: Any, window: int, **how: Any) -> Any:
    import torch.nn.functional as F

    return _pixels(getattr(F, f"{kind}_pool2d")(_planes(x), window, **how))


def _convolved(t: Any, x: Any, w: Any, **how: Any) -> Any:
    return _pixels(t.conv2d(_planes(x), w.permute(3, 2, 0, 1), **how))


def _attended(t: Any, q: Any, k: Any, v: Any, **how: Any) -> Any:
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    return t.nn.functional.scaled_dot_product_attention(*heads, **how).transpose(1, 2)


def _group_norm(t: Any, x: Any) -> Any:
    return _pixels(t.nn.functional.group_norm(_planes(x), 8))


def _scattered(t: Any, x: Any, i: Any, u: Any, axis: int) -> Any:
    return t.scatter_add(x, axis, i, u)


# ------------------------------------------------------------------------------------------------------ small models


def _lenet(xp: Any, conv: Function, pool: Function, x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    x = pool(xp.relu(conv(x, a)))
    x = pool(xp.relu(conv(x, b)))
    return xp.matmul(xp.relu(xp.matmul(xp.reshape(x, (x.shape[0], -1)), c)), d)


def _vgg(xp: Any, conv: Function, pool: Function, x: Any, *weights: Any) -> Any:
    *kernels, head = weights
    for number, w in enumerate(kernels):
        x = xp.relu(conv(x, w))
        x = pool(x) if number % 2 else x
    return xp.matmul(xp.reshape(x, (x.shape[0], -1)), head)


def _autoencoder(xp: Any, x: Any, *weights: Any) -> Any:
    y = x
    for number, w in enumerate(weights):
        y = xp.matmul(y, w)
        y = xp.tanh(y) if number < len(weights) - 1 else y
    return y - x


def model(function: Function) -> tuple[Function, Function]:
    """`function` of a namespace, its convolution and its pooling, for both."""
    return (lambda m, *xs: function(m, lambda x, w: m.conv(x, w, padding="same"), lambda x: m.max_pool(x, 2), *xs),
            lambda t, *xs: function(t, lambda x, w: _convolved(t, x, w, padding="same"), lambda x: _pooled("max", x, 2), *xs))


# --------------------------------------------------------------------------------------------------------- the table

VECTORS = ((100_000,), (1000, 1000), (3_000_000,))
PLANES = ((1000, 1000), (64, 16384), (16384, 64), (100_000, 7))
IMAGES = ((32, 28, 28, 1), (16, 56, 56, 64), (8, 112, 112, 3))
CONVOLUTIONS = [[(16, 32, 32, 32), (3, 3, 32, 32)], [(8, 28, 28, 1), (5, 5, 1, 16)], [(8, 56, 56, 16), (3, 3, 16, 1)],
                [(8, 28, 28, 64), (1, 1, 64, 128)]]
PRODUCTS = [[(512, 512), (512, 512)], [(10_000, 16), (16, 64)], [(8, 4096), (4096, 64)], [(64, 100, 32), (64, 32, 100)]]
HEADS = [[(2, 128, 4, 64)] * 3, [(1, 1000, 8, 32)] * 3]

ENTRIES: tuple[Entry, ...] = tuple([
    *rows("add", [[s, s] for s in VECTORS], lambda m, x, y: x + y, main=True),
    *[e for op in ("exp", "tanh", "sigmoid", "erf", "sin", "sqrt", "log1p")
      for e in rows(op, VECTORS[:2], lambda m, x, op=op: getattr(m, op)(m.abs(x)), gradient=op in ("tanh", "sigmoid"))],
    *rows("cube", VECTORS[:2], lambda m, x: x ** 3, gradient=True),
    *rows("where", [[s, s] for s in VECTORS[:2]], lambda m, x, y: m.where(x > y, x * y, x - y), gradient=True),
    *rows("clip", VECTORS[:2], lambda m, x: m.clip(x, -1.0, 1.0), gradient=True),
    *rows("add a row", [[s, s[1:]] for s in PLANES], lambda m, x, y: x * y + y, gradient=True),
    *rows("add a column", [[s, (s[0], 1)] for s in PLANES], lambda m, x, y: x * y + y, gradient=True),
    *rows("outer sum", [[(1000, 1), (1, 1000)]], lambda m, x, y: m.tanh(x + y), gradient=True),
    *[e for op in ("sum", "mean", "amax", "prod")
      for axis in (0, 1, (0, 1))
      for e in rows(f"{op} {axis}", PLANES, lambda m, x, op=op, axis=axis: getattr(m, op.replace("amax", "max"))(x, axis=axis),
                    lambda t, x, op=op, axis=axis: t.prod(x) if (op, axis) == ("prod", (0, 1)) else getattr(t, op)(x, axis),
                    gradient=op == "mean", main=op == "sum" and axis == 0) if (op, axis) != ("prod", (0, 1))],
    *rows("var 0", PLANES, lambda m, x: m.var(x, axis=0), lambda t, x: t.var(x, 0, correction=0), gradient=True),
    *rows("var 1", PLANES, lambda m, x: m.var(x, axis=1), lambda t, x: t.var(x, 1, correction=0), gradient=True),
    *[e for op in ("sum", "amax") for e in rows(f"{op} of axes apart", [(32, 28, 28, 32), (64, 100, 64), (16, 64, 3000)],
      lambda m, x, op=op: getattr(m, op.replace("amax", "max"))(x, axis=(0, x.ndim - 1)),
      lambda t, x, op=op: getattr(t, op)(x, (0, x.ndim - 1)))],
    *rows("sum of a middle axis", [(64, 100, 64), (16, 1000, 30), (1000, 64, 4)], lambda m, x: m.sum(x, axis=1), gradient=True),
    *rows("argmax 1", PLANES, lambda m, x: m.argmax(x, axis=1)),
    *rows("argmax 0", PLANES, lambda m, x: m.argmax(x, axis=0)),
    *rows("logsumexp", PLANES, lambda m, x: m.logsumexp(x, axis=1), lambda t, x: t.logsumexp(x, 1), gradient=True),
    *rows("cumsum 1", PLANES, lambda m, x: m.cumulative_sum(x, axis=1), lambda t, x: t.cumsum(x, 1), gradient=True),
    *rows("cumsum 0", PLANES, lambda m, x: m.cumulative_sum(x, axis=0), lambda t, x: t.cumsum(x, 0)),

    *rows("concat 0", [[s, s] for s in PLANES], lambda m, x, y: m.concat([x, y], axis=0), gradient=True, main=True),
    *rows("concat 1", [[s, s] for s in PLANES], lambda m, x, y: m.concat([x, y], axis=1), gradient=True),
    *rows("concat of vectors", [[(1_000_000,), (500_000,)], [(10_000,), (333,)]], lambda m, x, y: m.concat([x, y])),
    *rows("stack last", [[s, s] for s in PLANES], lambda m, x, y: m.stack([x, y], axis=-1),
          lambda t, x, y: t.stack([x, y], -1)),
    *rows("pad", [(1000, 1000), (16384, 64)], lambda m, x: m.pad(x, ((3, 2), (5, 4))),
          lambda t, x: t.nn.functional.pad(x, (5, 4, 3, 2)), gradient=True),
    *rows("roll 0", PLANES, lambda m, x: m.roll(x, 3, axis=0), lambda t, x: t.roll(x, 3, 0)),
    *rows("roll 1", PLANES, lambda m, x: m.roll(x, 3, axis=1), lambda t, x: t.roll(x, 3, 1)),
    *rows("flip 1", PLANES, lambda m, x: m.flip(x, axis=1), lambda t, x: t.flip(x, (1,))),
    *rows("slice of two", PLANES, lambda m, x: x[::2, 1:] * 1.0, gradient=True),
    *rows("tile", [(500, 500)], lambda m, x: m.tile(x, (2, 2)), gradient=True),
    *rows("transpose", PLANES, lambda m, x: x.T * 2.0, lambda t, x: (x.T * 2.0).contiguous(), main=True),
    *rows("transpose 0213", [(16, 128, 8, 64), (8, 32, 32, 3)], lambda m, x: m.permute_dims(x, (0, 2, 1, 3)) * 2.0,
          lambda t, x: (x.permute(0, 2, 1, 3) * 2.0).contiguous()),
    *rows("transpose 0312", [(32, 56, 56, 16), (8, 112, 112, 3)], lambda m, x: m.permute_dims(x, (0, 3, 1, 2)) * 2.0,
          lambda t, x: (x.permute(0, 3, 1, 2) * 2.0).contiguous()),

    *rows("take rows", [[(10_000, 64), Integers((4096,), 10_000)], [(1000, 7), Integers((50_000,), 1000)]],
          lambda m, x, i: m.take(x, i, axis=0), lambda t, x, i: t.index_select(x, 0, i), gradient=True, main=True),
    *rows("take columns", [[(1000, 1000), Integers((300,), 1000)]], lambda m, x, i: m.take(x, i, axis=1),
          lambda t, x, i: t.index_select(x, 1, i), gradient=True),
    *rows("embedding", [[(30_000, 128), Integers((16, 128), 30_000)]], lambda m, x, i: m.take(x, i, axis=0),
          lambda t, x, i: t.nn.functional.embedding(i, x), gradient=True),
    *[e for axis in (0, 1) for e in rows(f"take along {axis}", [[s, Integers(s, s[axis])] for s in PLANES[:3]],
      lambda m, x, i, axis=axis: m.take_along_axis(x, i, axis=axis), lambda t, x, i, axis=axis: t.gather(x, axis, i),
      gradient=True)],
    *[e for axis in (0, 1) for e in rows(f"scatter along {axis}", [[s, Integers(s, s[axis]), s] for s in PLANES[:3]],
      lambda m, x, i, u, axis=axis: m.put_along_axis(x, i, u, axis=axis, mode="add"),
      lambda t, x, i, u, axis=axis: _scattered(t, x, i, u, axis), main=axis == 1)],
    *[e for axis in (0, 1) for e in rows(f"sort {axis}", PLANES[:3], lambda m, x, axis=axis: m.sort(x, axis=axis),
      lambda t, x, axis=axis: t.sort(x, dim=axis, stable=True).values, main=axis == 1)],
    *rows("sort a vector", [(100_000,), (1_000_000,)], lambda m, x: m.sort(x), lambda t, x: t.sort(x, stable=True).values),
    *rows("argsort", [(1000, 1000), (100_000,)], lambda m, x: m.argsort(x), lambda t, x: t.argsort(x, stable=True)),
    *rows("topk", [(1000, 1000), (64, 50_000)], lambda m, x: m.topk(x, 10)[0], lambda t, x: t.topk(x, 10).values,
          gradient=True),

    *rows("softmax", PLANES, lambda m, x: m.softmax(x, axis=1), lambda t, x: t.softmax(x, 1), gradient=True, main=True),
    *rows("softmax 0", PLANES[:2], lambda m, x: m.softmax(x, axis=0), lambda t, x: t.softmax(x, 0), gradient=True),
    *rows("log softmax", PLANES, lambda m, x: m.log_softmax(x, axis=1), lambda t, x: t.log_softmax(x, 1), gradient=True),
    *rows("layer norm", PLANES, lambda m, x: m.layer_norm(x), lambda t, x: t.layer_norm(x, x.shape[1:]), gradient=True,
          main=True),
    *rows("group norm", [(16, 28, 28, 64), (8, 56, 56, 16)], lambda m, x: m.group_norm(x, 8), _group_norm, gradient=True),
    *rows("batch norm", [(16, 28, 28, 64), (8, 56, 56, 3), (4096, 128)],
          lambda m, x: (x - m.mean(x, axis=tuple(range(x.ndim - 1)))) / m.std(x, axis=tuple(range(x.ndim - 1))),
          lambda t, x: t.batch_norm(x if x.ndim == 2 else _planes(x), None, None, None, None, True, 0.0, 0.0, False)
          if x.ndim == 2 else _pixels(t.batch_norm(_planes(x), None, None, None, None, True, 0.0, 0.0, False)), gradient=True),
    *rows("cross entropy", [[s, Integers((s[0],), s[1])] for s in ((1024, 10), (512, 1000), (64, 32_000))],
          lambda m, x, i: m.cross_entropy(x, i), lambda t, x, i: t.nn.functional.cross_entropy(x, i), gradient=True),
    *rows("mean squared error", [[s, s] for s in VECTORS], lambda m, x, y: m.mse(x, y),
          lambda t, x, y: t.nn.functional.mse_loss(x, y), gradient=True),

    *rows("max pool 2", IMAGES, lambda m, x: m.max_pool(x, 2), lambda t, x: _pooled("max", x, 2), gradient=True),
    *rows("max pool 3 by 2", IMAGES, lambda m, x: m.max_pool(x, 3, stride=2),
          lambda t, x: _pooled("max", x, 3, stride=2), gradient=True),
    *rows("mean pool 2", IMAGES, lambda m, x: m.avg_pool(x, 2), lambda t, x: _pooled("avg", x, 2), gradient=True),
    *rows("upsampling", IMAGES, lambda m, x: m.repeat(m.repeat(x, 2, axis=1), 2, axis=2),
          lambda t, x: _pixels(t.nn.functional.interpolate(_planes(x), scale_factor=2)), gradient=True),

    *rows("convolution", CONVOLUTIONS, lambda m, x, w: m.conv(x, w), _convolved, gradient=True, main=True),
    *rows("convolution by 2", CONVOLUTIONS[:2], lambda m, x, w: m.conv(x, w, stride=2),
          lambda t, x, w: _convolved(t, x, w, stride=2), gradient=True),
    *rows("depthwise", [[(8, 56, 56, 32), (3, 3, 1, 32)], [(4, 14, 14, 256), (3, 3, 1, 256)]],
          lambda m, x, w: m.conv(x, w, groups=x.shape[-1]), lambda t, x, w: _convolved(t, x, w, groups=x.shape[-1]),
          gradient=True),
    *rows("convolution of a line", [[(16, 1000, 16), (5, 16, 32)]], lambda m, x, w: m.conv(x, w),
          lambda t, x, w: t.conv1d(x.transpose(1, 2), w.permute(2, 1, 0)).transpose(1, 2), gradient=True),

    *rows("matmul", PRODUCTS, lambda m, x, y: m.matmul(x, y), gradient=True, main=True),
    *rows("matmul of transposes", [[(512, 300), (400, 512)]], lambda m, x, y: m.matmul(x.T, y.T), gradient=True),
    *rows("matvec", [[(2000, 2000), (2000,)], [(100, 50_000), (50_000,)]], lambda m, x, y: m.matmul(x, y), gradient=True),
    *rows("outer product", [[(2000,), (2000,)]], lambda m, x, y: m.outer(x, y), gradient=True),
    *rows("attention", HEADS, lambda m, *qkv: m.attention(*qkv), _attended, gradient=True, main=True),
    *rows("causal attention", HEADS, lambda m, *qkv: m.attention(*qkv, causal=True),
          lambda t, *qkv: _attended(t, *qkv, is_causal=True), gradient=True),

    *rows("LeNet", [[(64, 28, 28, 1), (5, 5, 1, 6), (5, 5, 6, 16), (784, 120), (120, 10)]], *model(_lenet), gradient=True,
          main=True),
    *rows("VGG", [[(8, 32, 32, 3), (3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64), (3, 3, 64, 64), (4096, 10)]], *model(_vgg),
          gradient=True),
    *rows("autoencoder", [[(128, 784), (784, 256), (256, 32), (32, 256), (256, 784)]], _autoencoder, gradient=True),
])
BY_NAME = {entry.name: entry for entry in ENTRIES}


# ----------------------------------------------------------------------------------------------------------- the peers


def operands(entry: Entry) -> list[np.ndarray]:
    """The arrays of an entry; matrices and kernels of models are small enough for their products to stay near 1."""
    generator = np.random.default_rng(0)

    def one(number: int, of: Shape | Integers) -> np.ndarray:
        if isinstance(of, Integers):
            return generator.integers(0, of.below, of.shape)
        return generator.standard_normal(of, np.float32) * np.float32(1 if number == 0 else 0.3)

    return [one(number, of) for number, of in enumerate(entry.operands)]


def _cubes(xp: Any, y: Any) -> Any:
    """What gradients are taken of: no norm makes it a constant."""
    return xp.sum(y * y * y)


def mainspring(case: Case) -> Workload:
    import mainspring as ms

    entry = BY_NAME[case.name]
    arrays = operands(entry)
    floats = tuple([i for i, x in enumerate(arrays) if x.dtype == np.float32])

    def value(*xs: Any) -> Any:
        return entry.ours(ms, *xs)

    function = ms.jit(ms.grad(lambda *xs: _cubes(ms, value(*xs)), floats) if entry.gradient else value)
    values = [ms.asarray(x) for x in arrays]
    return Workload(lambda: function(*values))


def torch(case: Case) -> Workload:
    import torch

    entry = BY_NAME[case.name]
    values = [torch.from_numpy(x) for x in operands(entry)]
    if not entry.gradient:
        return Workload(torch.no_grad()(lambda: entry.theirs(torch, *values)))
    leaves = [x.requires_grad_() for x in values if x.dtype == torch.float32]
    return Workload(lambda: torch.autograd.grad(_cubes(torch, entry.theirs(torch, *values)), leaves))


FAMILY = Family(
    "ops",
    "single ops, their gradients and small models",
    tuple([Case(entry.name, {}, extra=not entry.main) for entry in ENTRIES]),
    {"mainspring": mainspring, "torch eager": torch},
    tolerance=1e-4,
    fresh=False,
)
