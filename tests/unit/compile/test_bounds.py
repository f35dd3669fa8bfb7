"""No kernel touches memory outside its operands and results: each ends, or begins, next to a page that nobody may touch."""

import ctypes
import mmap
import subprocess
import sys

import numpy as np
import pytest

import mainspring as ms
from mainspring.compile.lower import lower
from mainspring.compile.target import native
from mainspring.ops import recurrent
from mainspring.runtime.native import NativeProgram

PAGE = mmap.PAGESIZE


class Fenced:
    """Memory with a forbidden page behind its last byte (or before its first one)."""

    def __init__(self, nbytes: int, behind: bool):
        whole = -(-max(nbytes, 1) // PAGE) * PAGE
        self.map = mmap.mmap(-1, whole + 2 * PAGE)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        protect = ctypes.CDLL(None).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for fence in (begin, begin + PAGE + whole):
            assert protect(fence, PAGE, 0) == 0
        self.address = begin + PAGE + (whole - nbytes if behind else 0)


def run_fenced(function, arrays, behind, donated=()):
    """Run the compiled `function` with every operand and result in fenced memory; of `donated` operands results may live in."""
    graph = ms.jit(function).graph(*[ms.asarray(a) for a in arrays])
    lowered = lower(graph, native(), donated)
    held = [Fenced(a.nbytes, behind) for a in arrays]
    for fenced, a in zip(held, arrays, strict=True):
        ctypes.memmove(fenced.address, np.ascontiguousarray(a).ctypes.data, a.nbytes)
    held += [Fenced(t.nbytes, behind) if home is None else held[home]
             for t, home in zip(graph.output_types, lowered.aliases, strict=True)]
    constants = [c.ctypes.data for c in lowered.constants]
    NativeProgram(lowered.program).run([*[f.address for f in held], *constants])


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def transposed(a, b):
    return ms.matmul(ms.matrix_transpose(a), b)


def turned(a, b):
    return ms.matmul(a, ms.matrix_transpose(b))


def replaced(x, window, i, j):
    return ms.dynamic_update_slice(x, window, (i, j))


def behind_a_bias(a, b):
    return ms.tanh(ms.matmul(a, b) + b[0])


def gradients(f):
    return lambda *args: ms.vjp(f, *args)[1](f(*args))


def attend(q, k, v):
    return ms.attention(q, k, v, causal=True)


def remember(x, w, h):
    return recurrent.lstm(x, w, h, h)[0]


def permuted(x, d):
    return ms.tensordot(ms.permute_dims(x, (1, 0, 2)), d, axes=((0, 1), (0, 1)))


def convolve(x, w):
    return ms.conv(x, w, stride=2, padding=1)


FEW = [(1, 256, 300), (3, 300, 33), (2, 1100, 530), (3, 40, 2100)]
PRODUCTS = [(m, k, n) for m in (1, 13, 40) for k in (7, 1500) for n in (1, 33, 70)]
CASES = {
    **{f"{m}x{k}x{n}": (ms.matmul, (normal(m, k), normal(k, n))) for m, k, n in PRODUCTS},
    **{f"transposed {m}x{k}x{n}": (transposed, (normal(k, m), normal(k, n))) for m, k, n in PRODUCTS},
    **{f"few {m}x{k}x{n}": (f, (normal(m, k), normal(n, k) if f is turned else normal(k, n)))
       for f in (ms.matmul, turned) for m, k, n in FEW},
    "bias": (behind_a_bias, (normal(13, 40), normal(40, 33))),
    "attention": (gradients(attend), tuple(normal(2, 19, 3, 5) for _ in range(3))),
    "query": (attend, (normal(9, 1, 4, 5), normal(9, 19, 4, 5), normal(9, 19, 4, 5))),
    "rows packed by tasks": (ms.matmul, (normal(20, 1024), normal(1024, 270))),
    "convolution": (gradients(convolve), (normal(2, 9, 9, 3), normal(3, 3, 3, 5))),
    "lstm": (gradients(remember), (normal(3, 9, 52), normal(13, 52), normal(9, 13))),
    "lstm in rounds": (gradients(remember), (normal(2, 3, 1040), normal(260, 1040), normal(3, 260))),
    "permuted": (permuted, (normal(6, 50, 40), normal(50, 6, 70))),
    "softmax": (gradients(ms.softmax), (normal(7, 37),)),
    "window": (replaced, (normal(5, 37), normal(3, 7), np.int32(9), np.int32(99))),
    "window in place": (replaced, (normal(5, 37), normal(3, 7), np.int32(9), np.int32(99)), (0,)),
}


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mprotect"), reason="pages cannot be forbidden on this system")
@pytest.mark.parametrize("behind", [True, False], ids=["behind", "before"])
@pytest.mark.parametrize("part", range(4))
def test_kernels_stay_inside_their_operands(part, behind):
    code = ("import sys; from tests.unit.compile.test_bounds import CASES, run_fenced\n"
            f"for name in list(CASES)[{part}::4]:\n"
            "    print(name, flush=True)\n"
            f"    function, arrays, *donated = CASES[name]\n"
            f"    run_fenced(function, arrays, {behind}, *donated)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout.split(chr(10))[-2:]} {done.stderr[-800:]}"
