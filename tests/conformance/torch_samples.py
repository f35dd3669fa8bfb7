"""Compare `mainspring` with the sample inputs of PyTorch's own tests (`op_db`): values and gradients, eager and compiled.

PyTorch is a peer, not a need of this repository: in an environment that has it (`pip install torch expecttest`), run

    python tests/conformance/torch_samples.py                      # every op of the table, eager
    python tests/conformance/torch_samples.py --jit conv softmax   # ops whose name holds one of the words, compiled

`torch_table.py` says for each op of PyTorch what it is called here; an op that has no row there is not compared.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch_common import Skip
from torch_table import EAGER_ONLY, HABITS, TABLE

import mainspring as ms
from mainspring.base.errors import TraceError

try:
    import torch
    from torch.testing._internal.common_methods_invocations import op_db
except ImportError:
    torch, op_db = None, []

DTYPES = ("float64", "float32", "int64", "bool")
TOLERANCE = {"float64": (1e-9, 1e-9), "float32": (2e-5, 2e-5)}

# ------------------------------------------------------------------------------------------------------- comparison


def to_ms(x: Any) -> Any:
    return tree_map(
        lambda t: ms.asarray(
            t.detach().resolve_conj().contiguous().numpy() if t.dtype != torch.bfloat16 else t.float().numpy()
        ),
        x,
    )


def tree_map(f: Callable[..., Any], x: Any) -> Any:
    if isinstance(x, (torch.Tensor, ms.Tensor)):
        return f(x)
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        return type(x)(tree_map(f, v) for v in x)
    if isinstance(x, dict):
        return {k: tree_map(f, v) for k, v in x.items()}
    if isinstance(x, slice):
        return slice(*(tree_map(f, v) for v in (x.start, x.stop, x.step)))
    return x


def shown(given: Any) -> str:
    first_, args, kw = tree_map(lambda t: f"{str(t.dtype)[6:]}{tuple(t.shape)}", given)
    return f"{first_}, {', '.join(map(str, args))}{', ' if kw else ''}{kw or ''}"


def tensors(x: Any) -> Iterator[Any]:
    found: list[Any] = []
    tree_map(lambda t: found.append(t) or t, x)
    return iter(found)


def outputs_of(x: Any) -> list[Any]:
    return [x] if not isinstance(x, (tuple, list)) else list(x)


def plain(t: Any) -> np.ndarray:
    return (t.detach().float() if t.dtype in (torch.bfloat16, torch.float16) else t.detach()).resolve_conj().numpy()


def differs(name: str, got: Any, want: Any, loose: float = 1.0) -> str | None:
    a, b = np.asarray(got), plain(want)
    if a.dtype.itemsize == 2 and a.dtype.kind not in "iu":
        a, loose = a.astype(np.float32), loose * 1e3
    if a.shape != b.shape:
        return f"{name}: shape {a.shape}, wanted {b.shape}"
    if a.dtype.kind != b.dtype.kind and not (b.dtype.kind == "f" and a.dtype.kind == "f"):
        return f"{name}: dtype {a.dtype}, wanted {b.dtype}"
    low = "float32" if "float32" in (str(a.dtype), str(b.dtype)) or b.dtype.kind != "f" else "float64"
    rtol, atol = TOLERANCE[low]
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=1.0)) if b.dtype.kind == "f" else 1.0
    ok = np.isclose(
        a.astype(np.float64), b.astype(np.float64), rtol=rtol * loose, atol=atol * loose * max(1.0, scale), equal_nan=True
    )
    if ok.all():
        return f"{name}: dtype {a.dtype}, wanted {b.dtype}" if a.dtype != b.dtype and a.dtype.kind not in "f" else None
    where_ = tuple(int(i[0]) for i in np.nonzero(~ok)) if a.ndim else ()
    return f"{name}: {a[where_]!r}, wanted {b[where_]!r} at {where_} of {a.shape} ({int((~ok).sum())} differ)"


class Case:
    """One sample input: what PyTorch makes of it, and what is compared."""

    def __init__(self, op: Any, sample: Any, gradients: bool):
        self.function, self.label = TABLE[op.name], f"{op.name}{':' + op.variant_test_name if op.variant_test_name else ''}"
        given = (sample.input, tuple(sample.args), dict(sample.kwargs))
        self.leaves = [t for t in tensors(given) if t.requires_grad] if gradients else []
        self.shown = shown(given)
        followed = {id(t) for t in self.leaves}
        self.args = tree_map(lambda t: t if id(t) in followed else to_ms(t), given)  # now: PyTorch may write into its arguments
        try:
            self.wanted = outputs_of(op(sample.input, *sample.args, **sample.kwargs))
        except (RuntimeError, TypeError, ValueError) as error:
            raise Skip("PyTorch itself refuses") from error
        generator = torch.Generator().manual_seed(0)
        self.cotangents = [
            torch.randn(o.shape, dtype=o.dtype, generator=generator) if torch.is_tensor(o) and o.requires_grad else None
            for o in self.wanted
        ]
        pairs = [(o, c) for o, c in zip(self.wanted, self.cotangents, strict=True) if c is not None]
        self.gradients = (
            list(torch.autograd.grad([o for o, _ in pairs], self.leaves, [c for _, c in pairs], allow_unused=True))
            if pairs and self.leaves
            else []
        )

    def call(self, *primals: Any) -> list[Any]:
        """The op of `mainspring`, with `primals` in the places of the leaves and then, if there are more, of all tensors."""
        given, others = {id(t): p for t, p in zip(self.leaves, primals, strict=False)}, iter(primals[len(self.leaves) :])
        first_, args, kw = tree_map(lambda t: given[id(t)] if torch.is_tensor(t) else next(others, t), self.args)
        return outputs_of(self.function(first_, *args, **kw))

    def primals(self, everything: bool = False) -> list[Any]:
        """The tensors gradients are taken of; with `everything` also the others."""
        others = [t for t in tensors(self.args) if not torch.is_tensor(t)] if everything else []
        return [*[to_ms(t) for t in self.leaves], *others]

    def values_and_gradients(self, *primals: Any) -> tuple[list[Any], Any]:
        if not self.gradients:
            return self.call(*primals), ()
        chosen = [i for i, c in enumerate(self.cotangents) if c is not None]
        everything: list[Any] = []

        def floats(*p: Any) -> Any:
            everything[:] = self.call(*p)
            return tuple(everything[i] for i in chosen)

        outs, pull = ms.vjp(floats, *primals)
        found = dict(zip(chosen, outs, strict=True))
        back = pull(tuple(ms.astype(to_ms(self.cotangents[i]), o.dtype) for i, o in zip(chosen, outs, strict=True)))
        rest = [o for i, o in enumerate(self.call(*primals)) if i not in found] if len(found) < len(self.wanted) else []
        free = iter(rest)
        return [found[i] if i in found else next(free) for i in range(len(self.wanted))], back[: len(self.leaves)]

    def traceable(self) -> bool:
        return self.label not in EAGER_ONLY

    def compare(self, values: list[Any], gradients: Any) -> list[str]:
        if len(values) != len(self.wanted):
            return [f"{len(values)} outputs, wanted {len(self.wanted)}"]
        found = [
            differs(f"out{i}", v, w)
            for i, (v, w) in enumerate(zip(values, self.wanted, strict=True))
            if v is not None and torch.is_tensor(w)
        ]
        found += [
            differs(f"grad{i}", g, w, 20.0)
            for i, (g, w) in enumerate(zip(gradients, self.gradients, strict=True))
            if w is not None
        ]
        return [f for f in found if f]

    def __str__(self) -> str:
        return f"{self.label}({self.shown})"


def cases_of(op: Any, dtype: str, limit: int) -> Iterator[Case]:
    kind = getattr(torch, dtype)
    if not op.supports_dtype(kind, "cpu"):
        return
    differentiable = dtype.startswith("float") and op.supports_autograd
    torch.manual_seed(0)
    for i, sample in enumerate(op.sample_inputs("cpu", kind, requires_grad=differentiable)):
        if i >= limit:
            return
        try:
            yield Case(op, sample, differentiable)
        except Skip:
            continue


NUMBERS_ONLY = "must have one of the dtypes int8, int16"


def refusal(case: Case, error: Exception) -> str | None:
    """Why an error is right here: what the array API standard leaves out, and habits of PyTorch that NumPy does not share."""
    text = str(error)
    if NUMBERS_ONLY in text and "got:   bool" in text:
        return "arithmetic and order of bools"
    if "must be of a dtype that" in text:
        return "values of a higher kind written into a tensor"
    return None


def check_eager(case: Case) -> list[str]:
    with np.errstate(all="ignore"):
        return case.compare(*case.values_and_gradients(*case.primals()))


def check_compiled(cases: list[Case]) -> Iterator[tuple[Case, list[str]]]:
    """All cases of an op in one compiled function."""
    step = ms.jit(lambda ps: [c.values_and_gradients(*p) for c, p in zip(cases, ps, strict=True)])
    try:
        found = step([c.primals(everything=True) for c in cases])
    except TraceError:  # whole numbers or masks that shapes depend on
        found = step([c.primals() for c in cases])
    for case, (values, gradients) in zip(cases, found, strict=True):
        yield case, case.compare(values, gradients)


def runnable(case: Case) -> bool:
    try:
        return not check_eager(case)
    except Exception:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only ops whose name holds one of these")
    parser.add_argument("--jit", action="store_true", help="compiled, the samples that agree in eager mode")
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--limit", type=int, default=60, help="samples of one op and dtype")
    parser.add_argument("--trace", action="store_true", help="show where an error came from")
    options = parser.parse_args()
    if torch is None:
        print("PyTorch is not installed: skipped")
        return 0
    counts: Counter[str] = Counter()
    ops: set[str] = set()
    bad: set[str] = set()

    def report(case: Case, found: list[str]) -> None:
        counts["failed" if found else "passed"] += 1
        if found:
            bad.add(case.label)
            print(f"FAIL {case}", *found, sep="\n     ", flush=True)

    for op in op_db:
        if op.name not in TABLE or (options.words and not any(w in op.name for w in options.words)):
            continue
        for dtype in options.dtypes.split(","):
            cases = list(cases_of(op, dtype, options.limit))
            ops |= {op.name} if cases else set()
            if options.jit:
                good = [c for c in cases if c.traceable() and runnable(c)]
                try:
                    for case, found in check_compiled(good) if good else ():
                        report(case, found)
                except Exception as error:
                    report(good[0], [f"{type(error).__name__}: {str(error)[:600]}"])
                    if options.trace:
                        traceback.print_exc()
                continue
            for case in cases:
                try:
                    if reason := next(
                        (why for (name, word), why in HABITS.items() if case.label.startswith(name) and word in str(case)), None
                    ):
                        raise Skip(reason)
                    report(case, check_eager(case))
                except Skip as why:
                    counts[f"skipped ({why})"] += 1
                except Exception as error:
                    if why := refusal(case, error):
                        counts[f"skipped ({why})"] += 1
                        continue
                    report(case, [f"{type(error).__name__}: {str(error)[:300]}"])
                    if options.trace:
                        traceback.print_exc()
    print(f"{len(ops)} ops, {sum(counts.values())} samples: {dict(counts)}; ops with failures: {', '.join(sorted(bad))}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
