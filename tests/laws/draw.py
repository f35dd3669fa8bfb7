"""What samples of ops are made of, and how the laws ask for them; the table itself is samples.py.

`samples(name, dtype)` gives the applications of the op `name` to try at `dtype`, none when the op does not take it. An op is
entered once, as a function of a `Draw` that yields `Sample`s; a new op without an entry fails tests/laws/test_registry.py.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mainspring.base.errors import MainspringError
from mainspring.ir.bind import Value, bind
from mainspring.ir.op import OPS
from mainspring.ops.movement import SLICE, TRANSPOSE
from mainspring.types.dtype import ALL, DType, as_dtype, bool_, float32, float64, int32
from mainspring.types.shape import TensorType

SHAPES = [(), (0,), (1,), (17,), (3, 1, 5), (2, 0, 3)]
LARGE = (3, 1367)  # 4101 elements: more than a chunk, and no multiple of a vector
THOROUGH = (float32, float64, int32, bool_)  # dtypes that get every shape; the others get EDGES and two of them


@dataclass(frozen=True, eq=False)
class Sample:
    """One application. `smooth`: differentiable around `arrays`. `view`: how the operands come to the op.

    view "transpose": through a transpose of the reversed dims; "slice": as every other element of a longer last dim.
    """

    op: str
    arrays: tuple[np.ndarray, ...]
    static: dict[str, Any] = field(default_factory=dict)
    smooth: bool = True
    view: str = ""

    @property
    def stored(self) -> tuple[np.ndarray, ...]:
        """The operands as they lie in memory, before the view."""
        if self.view == "transpose":
            return tuple([np.ascontiguousarray(a.T) for a in self.arrays])
        if self.view == "slice":
            return tuple([np.stack([a, a[..., ::-1]], -1).reshape(*a.shape[:-1], -1) for a in self.arrays])
        return self.arrays

    def apply(self, *stored: Value) -> tuple[Value, ...]:
        """The op applied to the view of `stored`; always a tuple."""
        results = bind(OPS[self.op], *[_viewed(x, self.view) for x in stored], **self.static)
        return results if isinstance(results, tuple) else (results,)

    def reference(self, dtype: np.dtype | None = None) -> tuple[np.ndarray, ...]:
        """What the reference says (floats converted to `dtype` first, if given)."""
        arrays = [a.astype(dtype) if dtype is not None and _is_float(a) else a for a in self.arrays]
        with np.errstate(all="ignore"):
            results = OPS[self.op].reference(*arrays, **self.static)
        return tuple([np.asarray(r) for r in results]) if isinstance(results, tuple) else (np.asarray(results),)

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple([TensorType(a.shape, as_dtype(a.dtype)) for a in self.arrays])


def _is_float(array: np.ndarray) -> bool:
    return as_dtype(array.dtype).kind == "float"


def _viewed(x: Value, view: str) -> Value:
    if view == "transpose":
        return bind(TRANSPOSE, x, axes=tuple(reversed(range(x.ndim))))
    if view == "slice":
        return bind(SLICE, x, start=(0,) * x.ndim, stop=x.shape, step=(*[1] * (x.ndim - 1), 2))
    return x


@dataclass
class Draw:
    """Random arrays of one dtype, the same in every run."""

    name: str
    dtype: DType

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(zlib.crc32(f"{self.name} {self.dtype.name}".encode()))

    @property
    def thorough(self) -> bool:
        return self.dtype in THOROUGH

    def __call__(self, *shape: int, low: float = -3.0, high: float = 3.0, dtype: DType | None = None) -> np.ndarray:
        """Numbers in [low, high) (integers within 7 times that, unsigned ones from 0)."""
        of = self.dtype if dtype is None else dtype
        if of.kind == "bool":
            return np.asarray(self.rng.random(shape) < 0.5)
        if of.kind == "float":
            return np.asarray(self.rng.uniform(low, high, shape)).astype(of.numpy)
        least = 0 if of.kind == "uint" else math.floor(low * 7)
        return np.asarray(self.rng.integers(least, max(least + 1, math.ceil(high * 7)), shape)).astype(of.numpy)

    def index(self, shape: tuple[int, ...], extent: int) -> np.ndarray:
        """Indices of a dim, negative ones too."""
        return self.rng.integers(-extent, extent, shape)

    def sample(self, *arrays: np.ndarray, smooth: bool = True, view: str = "", **static: Any) -> Sample:
        return Sample(self.name, arrays, static, smooth, view)

    @property
    def edges(self) -> np.ndarray:
        """Where meanings differ if they differ."""
        if self.dtype.kind == "bool":
            return np.array([False, True])
        if self.dtype.kind == "float":
            info = TINY[self.dtype.name]
            some = [0.0, -0.0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 3, 100, -7, math.inf, -math.inf, math.nan, *info]
            return np.array(some).astype(self.dtype.numpy)
        info = np.iinfo(self.dtype.numpy)
        some = sorted(
            {info.min, info.min + 1, 0, 1, 2, 3, 5, 7, 31, 63, 64, 100, info.max - 1, info.max}
            | ({-1, -2, -3, -7} if info.min else set())
        )
        return np.array(some, self.dtype.numpy)


#: greatest, least normal and least subnormal numbers
TINY = {
    "float16": (65504.0, -65504.0, 6.104e-05, 6e-08),
    "bfloat16": (3.3895e38, -3.3895e38, 1.1755e-38, 9.2e-41),
    "float32": (3.4028235e38, -3.4028235e38, 1.1754944e-38, 1.4e-45),
    "float64": (1.7976931348623157e308, -1.7976931348623157e308, 2.2250738585072014e-308, 5e-324),
}

Maker = Callable[[Draw], Iterator[Sample]]
MAKERS: dict[str, Maker] = {}

#: ops that cannot be applied by themselves, and why
STRUCTURAL = {
    "input": "stands for an argument of a graph",
    "item": "picks a result of an op of several",
    "constant": "a literal of a graph",
}


def entry(*names: str) -> Callable[[Maker], Maker]:
    """Enter the maker of samples of the ops `names`."""

    def enter(maker: Maker) -> Maker:
        for name in names:
            MAKERS[name] = maker
        return maker

    return enter


def samples(name: str, dtype: DType) -> list[Sample]:
    """The samples of the op `name` at `dtype`; none when it does not take that dtype."""
    made = []
    for sample in MAKERS[name](Draw(name, dtype)):
        try:
            OPS[name].infer(*sample.types, **sample.static)
        except MainspringError:
            return []
        made.append(sample)
    return made


def all_samples(name: str) -> list[Sample]:
    """The samples of the op `name` at every dtype it takes."""
    return [sample for dtype in ALL for sample in samples(name, dtype)]


def shapes(draw: Draw) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and views to try."""
    if not draw.thorough:
        return [((), ""), ((3, 1, 5), "")]
    some = [(shape, "") for shape in SHAPES] + [((5, 7), "transpose"), ((4, 9), "slice")]
    return [*some, (LARGE, "")] if draw.dtype in (float32, int32) else some
