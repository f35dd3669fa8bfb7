"""Seeded random programs over tensors: what the laws of whole functions are tried on.

`program(seed)` writes a function step by step, computing as it goes, so that values stay in range and shapes fit. Steps mix
elementwise work, reductions, movement, contractions, indexing and control flow, and read earlier values at random, so results
are shared, unused, or are inputs themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import mainspring as ms

LARGE = 20.0  # a value above this is squashed
MOST = 1500  # elements of a value


@dataclass(frozen=True)
class Step:
    """``apply(*values at reads)``; `text` says what it is."""

    text: str
    reads: tuple[int, ...]
    apply: Callable[..., Any]


@dataclass(frozen=True)
class Program:
    """A function of `inputs` (float arrays); `outputs` are positions among the inputs and the results of the steps."""

    seed: int
    inputs: tuple[np.ndarray, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        env = list(values)
        for step in self.steps:
            env.append(step.apply(*[env[i] for i in step.reads]))
        return tuple([env[i] for i in self.outputs])

    def loss(self, *values: Any) -> Any:
        """One number that depends on all float outputs."""
        parts = [
            ms.mean(ms.sin(out * (i + 1))) for i, out in enumerate(self(*values)) if out.dtype.kind == "float" and out.size
        ]
        return sum(parts, start=ms.mean(values[0]) * 0.5)

    def __str__(self) -> str:
        lines = [f"program({self.seed})", *[f"  %{i} = input {a.dtype}{a.shape}" for i, a in enumerate(self.inputs)]]
        lines += [f"  %{i + len(self.inputs)} = {step.text} of {step.reads}" for i, step in enumerate(self.steps)]
        return "\n".join([*lines, f"  outputs {self.outputs}"])


class Writer:
    """Writes one program."""

    def __init__(self, seed: int, dtype: str):
        self.rng = np.random.default_rng(seed)
        shapes = [
            tuple(int(n) for n in self.rng.integers(1, 8, self.rng.integers(0, 4))) for _ in range(self.rng.integers(1, 4))
        ]
        shapes.append((int(self.rng.integers(2, 40)), int(self.rng.integers(2, 20))))
        self.inputs = tuple([np.asarray(self.rng.uniform(-2, 2, shape)).astype(dtype) for shape in shapes])
        self.steps: list[Step] = []
        self.values = [ms.asarray(a) for a in self.inputs]

    # ---------------------------------------------------------------------------------------------------- choices

    def one_of(self, some: Sequence[Any]) -> Any:
        return some[int(self.rng.integers(len(some)))]

    def number(self, low: int, high: int) -> int:
        """An int in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, least_dims: int = 0, kind: str = "float") -> int | None:
        """The position of a value, recent ones more often."""
        fitting = [i for i, v in enumerate(self.values) if v.ndim >= least_dims and v.dtype.kind == kind and v.size]
        if not fitting:
            return None
        return fitting[-1 - min(int(self.rng.geometric(0.3)) - 1, len(fitting) - 1)]

    def add(self, text: str, reads: Sequence[int], apply: Callable[..., Any]) -> None:
        """Keep the step unless its result is too large to go on with."""
        result = apply(*[self.values[i] for i in reads])
        if result.size > MOST:
            return
        self.steps.append(Step(text, tuple(reads), apply))
        self.values.append(result)
        if result.dtype.kind == "float" and result.size and not float(ms.max(ms.abs(result))) < LARGE:
            self.add("tanh", (len(self.values) - 1,), lambda x: ms.tanh(x * 0.1))

    # ------------------------------------------------------------------------------------------------------ steps

    def unary(self) -> None:
        name, function = self.one_of(
            [
                ("tanh", ms.tanh),
                ("sin", ms.sin),
                ("gauss", lambda x: ms.exp(-x * x)),
                ("sigmoid", ms.sigmoid),
                ("square", ms.square),
                ("log1p", lambda x: ms.log1p(x * x)),
                ("rsqrt", lambda x: ms.rsqrt(x * x + 1.0)),
                ("relu", ms.relu),
                ("gelu", ms.gelu),
                ("erf", ms.erf),
                ("negative", lambda x: -x),
                ("scale", lambda x: x * 0.7 + 0.1),
                ("clip", lambda x: ms.clip(x, -1.0, 1.5)),
                ("atan", ms.atan),
                ("stop", ms.stop_gradient),
            ]
        )
        self.add(name, (self.pick(),), function)  # type: ignore[arg-type]

    def binary(self) -> None:
        a = self.pick()
        shape = self.values[a].shape  # type: ignore[index]
        fitting = [i for i, v in enumerate(self.values) if v.dtype.kind == "float" and _broadcasts(v.shape, shape)]
        name, function = self.one_of(
            [
                ("add", ms.add),
                ("subtract", ms.subtract),
                ("multiply", ms.multiply),
                ("maximum", ms.maximum),
                ("where", lambda x, y: ms.where(x > y, x, y * 0.5)),
                ("divide", lambda x, y: x / (1.0 + y * y)),
                ("hypot", lambda x, y: ms.hypot(x, y + 3.0)),
                ("logaddexp", ms.logaddexp),
                ("atan2", lambda x, y: ms.atan2(x, y * y + 1.0)),
            ]
        )
        self.add(name, (a, self.one_of(fitting)), function)  # type: ignore[arg-type]

    def reduction(self) -> None:
        x = self.pick(1)
        if x is None:
            return
        ndim = self.values[x].ndim
        axes = tuple(sorted(self.rng.permutation(ndim)[: self.number(1, ndim)].tolist()))
        keep = bool(self.number(0, 1))
        name, function = self.one_of(
            [
                ("sum", ms.sum),
                ("mean", ms.mean),
                ("max", ms.max),
                ("min", ms.min),
                ("var", ms.var),
                ("logsumexp", ms.logsumexp),
                ("prod", lambda v, axis, keepdims: ms.prod(ms.tanh(v), axis=axis, keepdims=keepdims)),
            ]
        )
        self.add(f"{name} {axes} {keep}", (x,), lambda v: function(v, axis=axes, keepdims=keep))

    def along(self) -> None:
        x = self.pick(1)
        if x is None:
            return
        axis = self.number(0, self.values[x].ndim - 1)
        name, function = self.one_of(
            [
                ("softmax", ms.softmax),
                ("log_softmax", ms.log_softmax),
                ("cumulative_sum", ms.cumulative_sum),
                ("sort", ms.sort),
                ("layer_norm", lambda v, axis: v - ms.mean(v, axis=axis, keepdims=True)),
                ("cumulative_max", ms.cumulative_max),
            ]
        )
        self.add(f"{name} {axis}", (x,), lambda v: function(v, axis=axis))

    def movement(self) -> None:
        x = self.pick(1)
        if x is None:
            return
        v = self.values[x]
        axis, n = (axis := self.number(0, v.ndim - 1)), v.shape[axis]
        order = tuple(self.rng.permutation(v.ndim).tolist())
        start, step = self.number(0, n - 1), self.number(1, 3)
        key = (*[slice(None)] * axis, slice(start, None, step))
        pads = [(self.number(0, 2), self.number(-(m // 3), 2)) for m in v.shape]
        shift = self.number(1, 5)
        name, function = self.one_of(
            [
                (f"permute {order}", lambda t: ms.permute_dims(t, order)),
                (f"slice {axis} {start} {step}", lambda t: t[key]),
                (f"flip {axis}", lambda t: ms.flip(t, axis=axis)),
                (f"pad {pads}", lambda t: ms.pad(t, pads, value=0.3)),
                (f"roll {shift} {axis}", lambda t: ms.roll(t, shift, axis=axis)),
                ("flatten", lambda t: ms.reshape(t, (-1,))),
                ("expand", lambda t: ms.expand_dims(t, axis=axis)),
                (f"tile {axis}", lambda t: ms.concat([t, t * 0.5], axis=axis)),
                (f"repeat {axis}", lambda t: ms.repeat(t, 2, axis=axis)),
            ]
        )
        self.add(name, (x,), function)

    def resized(self, x: int, shape: tuple[int, ...]) -> int:
        """A step that lays the elements of value `x` out in `shape`; its position."""
        count, have = math.prod(shape), self.values[x].size
        self.add(f"resize {shape}", (x,), lambda v: ms.reshape(ms.tile(ms.reshape(v, (-1,)), -(-count // have))[:count], shape))
        return len(self.values) - 1

    def matmul(self) -> None:
        x = self.pick(2)
        y = self.pick()
        if x is None:
            return
        k, n = self.values[x].shape[-1], self.one_of([1, 3, 17, 20])
        if k * n > MOST:
            return
        w = self.resized(y, (k, n))  # type: ignore[arg-type]
        name, function = self.one_of(
            [
                ("matmul", lambda a, b: ms.matmul(a, b) * (1 / math.sqrt(k))),
                ("dense", lambda a, b: ms.relu(ms.matmul(a, b) + 0.1) * (1 / math.sqrt(k))),
                ("matmul nt", lambda a, b: ms.matmul(a, ms.matrix_transpose(ms.matrix_transpose(b) * 0.3))),
            ]
        )
        self.add(f"{name} {n}", (x, w), function)

    def conv(self) -> None:
        c, o, stride, dilation = self.number(1, 4), self.number(1, 6), self.number(1, 2), self.number(1, 2)
        x = self.resized(self.pick(), (2, self.number(5, 7), 6, c))  # type: ignore[arg-type]
        w = self.resized(self.pick(), (3, 2, c, o))  # type: ignore[arg-type]
        self.add(
            f"conv {stride} {dilation}",
            (x, w),
            lambda a, b: ms.conv(a, b, stride=stride, dilation=dilation, padding="same") * 0.3,
        )
        if self.number(0, 1):
            self.add("max_pool", (len(self.values) - 1,), lambda a: ms.max_pool(a, 2, stride=1))

    def indexing(self) -> None:
        x = self.pick(1)
        if x is None:
            return
        v = self.values[x]
        axis, n = (axis := self.number(0, v.ndim - 1)), v.shape[axis]
        index = self.rng.integers(-n, n, self.number(1, 6))
        rows = np.unique(index % n)  # of several updates of one place the last wins, which differences cannot see
        name, function = self.one_of(
            [
                (f"take {axis}", lambda t: ms.take(t, ms.asarray(index), axis=axis)),
                ("add at", lambda t: t.at[ms.asarray(index % t.shape[0])].add(0.5 * ms.take(t, 0, axis=0))),
                ("set at", lambda t: t.at[ms.asarray(rows % t.shape[0])[:1]].set(ms.tanh(t[-1:]))),
                (f"by argmax {axis}", lambda t: ms.take_along_axis(t, ms.argmax(t, axis=axis, keepdims=True), axis=axis)),
                (
                    f"window {axis}",
                    lambda t: ms.dynamic_slice(
                        t, tuple(ms.asarray(1) for _ in t.shape), tuple(max(1, m // 2) for m in t.shape)
                    ),
                ),
            ]
        )
        self.add(name, (x,), function)

    def control(self) -> None:
        x, y = self.pick(1), self.pick()
        if x is None:
            return
        trips = self.number(0, 4)
        name, function = self.one_of(
            [
                (
                    "cond",
                    lambda a, b: ms.cond(
                        ms.mean(a) > 0.1, lambda p, q: p * ms.mean(q), lambda p, q: ms.sin(p) - ms.max(q), a, b
                    ),
                ),
                ("scan", lambda a, b: ms.scan(lambda h, row: (ms.tanh(h * 0.9 + row), h * row), a[0] * 0.5, a)[1]),
                (
                    "scan back",
                    lambda a, b: ms.scan(
                        lambda h, row: (h * 0.5 + ms.mean(row) * ms.max(b), ms.sum(row) * h), 0.1 * ms.mean(b), a, reverse=True
                    )[1],
                ),
                (f"fori {trips}", lambda a, b: ms.fori_loop(0, trips, lambda i, h: ms.sin(h) + ms.mean(b), a)),
                ("checkpoint", lambda a, b: ms.checkpoint(lambda p, q: ms.tanh(p * ms.mean(q)) * p)(a, b)),
                (
                    "nested",
                    lambda a, b: ms.scan(
                        lambda h, row: (ms.cond(ms.sum(row) > h, lambda r: ms.mean(r), lambda r: ms.sin(ms.sum(r)), row), h),
                        ms.mean(b),
                        a,
                    )[1],
                ),
            ]
        )
        self.add(name, (x, y), function)  # type: ignore[arg-type]

    def write(self, seed: int) -> Program:
        """The whole program."""
        kinds = [
            self.unary,
            self.unary,
            self.binary,
            self.binary,
            self.reduction,
            self.along,
            self.movement,
            self.movement,
            self.matmul,
            self.conv,
            self.indexing,
            self.control,
        ]
        for _ in range(self.number(4, 11)):
            self.one_of(kinds)()
        last = len(self.values) - 1
        outputs = (last, *[self.number(0, last) for _ in range(self.number(0, 3))])
        return Program(seed, self.inputs, tuple(self.steps), outputs)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) <= len(large) and all(a in (1, b) for a, b in zip(reversed(small), reversed(large), strict=False))


def program(seed: int, dtype: str = "float64") -> Program:
    """The random program of `seed`."""
    return Writer(seed, dtype).write(seed)
