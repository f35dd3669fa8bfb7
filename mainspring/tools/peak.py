"""The peak meter: what this machine can do at most, measured by kernels that do nothing else.

With this you can say how far a program is from the hardware: `measure()` gives rates of multiply-adds for each kind of number
and of memory, on one core and on all, and `Peak.share` the fraction that a workload reached. The kernels are LLVM IR:
independent accumulators, enough to hide the latency of an instruction, and streams of whole vectors over more memory than the
caches hold. They run on the team of threads, as compiled programs do.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from mainspring.base import flags
from mainspring.compile.emit import codegen
from mainspring.compile.target import Target, native
from mainspring.compile.target.caches import caches
from mainspring.runtime import team
from mainspring.runtime.buffers import aligned

_SMALLEST, _LARGEST = 64 << 20, 256 << 20  # bytes of an array that is streamed
_LINE = 128  # bytes that one thread writes its result to
_STREAM = 8  # vectors in a round of a stream
_PRODUCT_SECONDS, _STREAM_SECONDS = 0.25, 0.25  # how long to look for the best rate
_PAUSE = 4e-3  # seconds between two runs, in which the system may place the threads anew


@dataclass(frozen=True)
class Rate:
    """A rate on one core and on all threads: 10⁹ operations, or bytes, a second."""

    one: float
    all: float


@dataclass(frozen=True)
class Peak:
    """What the machine can do.

    Attributes:
        threads: how many make "all".
        arithmetic: dtype name → rate of its multiply-adds, each counted as two operations.
        memory: ``"read"``, ``"copy"`` and ``"copy past caches"`` (streaming stores) → rate of bytes, those of a copy counted
            twice (read and written).
        cache: bytes of the caches of a core, shared ones included; 0 if unknown.
    """

    threads: int
    arithmetic: dict[str, Rate]
    memory: dict[str, Rate]
    cache: int = 0

    def share(self, seconds: float, operations: float = 0, moved: float = 0, dtype: str = "float32") -> float:
        """The fraction of the peak of all threads reached in `seconds`: by `operations` of `dtype`, or if it is more, by a
        traffic of `moved` bytes. Less than the caches hold need not go to memory and counts as none.
        """
        arithmetic = self.arithmetic.get(dtype, self.arithmetic["float32"])
        copy = max((rate.all for name, rate in self.memory.items() if name.startswith("copy")), default=float("inf"))
        traffic = moved if moved > self.cache else 0
        return max(operations / arithmetic.all, traffic / copy) / (1e9 * seconds)

    def as_json(self) -> dict[str, Any]:
        """The same as plain dicts."""
        return asdict(self)


def measure(threads: int | None = None, memory: bool = True) -> Peak:
    """The peak of this machine with `threads` (default: the flag); takes about two seconds, without `memory` one."""
    count = flags.threads() if threads is None else threads
    chosen = {p.dtype: p for p in _PRODUCTS if not p.needs or p.needs in native().has}
    arithmetic = {dtype: _product_rate(p, count) for dtype, p in chosen.items()}
    return Peak(count, arithmetic, _memory_rates(count) if memory else {}, _cached())


# ------------------------------------------------------------------------------------------------------- arithmetic


@dataclass(frozen=True)
class _Product:
    """An instruction that multiplies and adds: ``accumulator = call(accumulator, x, y)``; or two, where `call` only multiplies.

    Args:
        dtype: of what is multiplied. needs: the fact of the target that it takes, "" for none.
        accumulator, operand: element types. ratio: operand elements to one of the accumulator.
        call: its name; {n} and {m} are the elements of accumulator and operand in a vector of {bits}. adds: whether it adds.
    """

    dtype: str
    needs: str
    accumulator: str
    operand: str
    ratio: int
    call: str
    adds: bool = True

    def vectors(self, target: Target) -> dict[str, Any]:
        """The words of the kernel's text that depend on the vectors of `target`."""
        n = target.vector_bytes // _SIZES[self.accumulator]
        m = n * self.ratio
        call = self.call.format(n=n, m=m, bits=8 * target.vector_bytes)
        return {"n": n, "m": m, "v": f"<{n} x {self.accumulator}>", "w": f"<{m} x {self.operand}>", "call": call}


_SIZES = {"float": 4, "double": 8, "i32": 4}
_PRODUCTS = (  # the last of a dtype that the target has is measured
    _Product("float32", "", "float", "float", 1, "llvm.fma.v{n}f32"),
    _Product("float64", "", "double", "double", 1, "llvm.fma.v{n}f64"),
    _Product("bfloat16", "bf16", "float", "bfloat", 2, "llvm.x86.avx512bf16.dpbf16ps.{bits}"),
    _Product("int8", "avx2", "i32", "i16", 2, "llvm.x86.avx2.pmadd.wd", adds=False),  # of int8 widened to int16
    _Product("int8", "avx512", "i32", "i16", 2, "llvm.x86.avx512.pmaddw.d.512", adds=False),
    _Product("int8", "vnni", "i32", "i8", 4, "llvm.x86.avx512.vpdpbusd.{bits}"),
    _Product("int8", "dotprod", "i32", "i8", 4, "llvm.aarch64.neon.sdot.v{n}i32.v{m}i8"),
)

# args: rounds, address of x and y (a vector each), address of the results (a line for each thread)
_PRODUCT_TEXT = """
declare {v} @{call}({parameters})
define void @run(ptr %args, ptr %state, i64 %tid, i64 %threads) {{
entry:
  %rounds = load i64, ptr %args
  %from.at = getelementptr i64, ptr %args, i64 1
  %from = load ptr, ptr %from.at
  %to.at = getelementptr i64, ptr %args, i64 2
  %to = load ptr, ptr %to.at
  %x = load {w}, ptr %from, align {bytes}
  %second = getelementptr i8, ptr %from, i64 {bytes}
  %y = load {w}, ptr %second, align {bytes}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{loop}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %rounds
  br i1 %more, label %loop, label %done
done:
  %place = mul i64 %tid, {line}
  %mine = getelementptr i8, ptr %to, i64 %place
{done}
  store {v} %s{last}, ptr %mine, align {bytes}
  ret void
}}
"""


def _product_text(product: _Product, target: Target) -> tuple[str, int]:
    """The kernel of `product` and the operations of one of its rounds on one thread."""
    words = product.vectors(target)
    v, w, call = words["v"], words["w"], words["call"]
    count = target.vector_registers * 3 // 4
    add = "add" if product.accumulator == "i32" else "fadd"
    loop = [f"  %a{j} = phi {v} [ zeroinitializer, %entry ], [ %b{j}, %loop ]" for j in range(count)]
    for j in range(count):
        loop += _multiply_add(product, j, v, w, call)
    done = [f"  %s0 = {add} {v} %b0, zeroinitializer"]
    done += [f"  %s{j} = {add} {v} %s{j - 1}, %b{j}" for j in range(1, count)]
    parameters = f"{v}, {w}, {w}" if product.adds else f"{w}, {w}"
    text = _PRODUCT_TEXT.format(v=v, call=call, parameters=parameters, w=w, bytes=target.vector_bytes, line=_LINE,
                                last=count - 1, loop="\n".join(loop), done="\n".join(done))
    return text, 2 * count * words["m"]


def _multiply_add(product: _Product, j: int, v: str, w: str, call: str) -> list[str]:
    """b ← a plus products, for accumulator `j`; where the sum is an instruction of its own, a is multiplied so that none leaves
    the loop."""
    if product.adds:
        return [f"  %b{j} = call {v} @{call}({v} %a{j}, {w} %x, {w} %y)"]
    return [f"  %p{j} = bitcast {v} %a{j} to {w}", f"  %q{j} = call {v} @{call}({w} %p{j}, {w} %y)",
            f"  %b{j} = add {v} %a{j}, %q{j}"]


def _product_rate(product: _Product, threads: int) -> Rate:
    text, operations = _product_text(product, native())
    kernel = _kernel(text)
    half = {"float32": np.float32, "float64": np.float64}.get(product.dtype)
    # acc ← acc / 2 + 1/2 stays a normal number
    numbers = np.full(2 * _LINE, 0.5, half) if half else np.ones(2 * _LINE, np.uint8)
    operands, results = aligned(2 * _LINE, _LINE), aligned(_LINE * threads, _LINE)
    operands[:] = numbers.view(np.uint8)[: 2 * _LINE]

    def rate(count: int) -> float:
        rounds = 1 << 12
        _timed(kernel, (rounds, operands, results), count)  # starts the team
        while _timed(kernel, (rounds, operands, results), count) < 5e-3:  # far above the cost of waking the team
            rounds *= 2
        return _best(kernel, (rounds, operands, results), count, _PRODUCT_SECONDS, operations * rounds * count)

    return Rate(rate(1), rate(threads))


# ----------------------------------------------------------------------------------------------------------- memory

# args: bytes, address to read, address to write; a thread takes its share of whole rounds
_STREAM_TEXT = """
define void @run(ptr %args, ptr %state, i64 %tid, i64 %threads) {{
entry:
  %bytes = load i64, ptr %args
  %from.at = getelementptr i64, ptr %args, i64 1
  %from = load ptr, ptr %from.at
  %to.at = getelementptr i64, ptr %args, i64 2
  %to = load ptr, ptr %to.at
  %rounds = udiv i64 %bytes, {round}
  %first.scaled = mul i64 %rounds, %tid
  %first = udiv i64 %first.scaled, %threads
  %tid.next = add i64 %tid, 1
  %end.scaled = mul i64 %rounds, %tid.next
  %end = udiv i64 %end.scaled, %threads
  br label %loop
loop:
  %i = phi i64 [ %first, %entry ], [ %next, %loop ]
{sums}
  %offset = mul i64 %i, {round}
{loop}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  %place = mul i64 %tid, {line}
  %mine = getelementptr i8, ptr %to, i64 %place
{done}
  ret void
}}
!0 = !{{ i32 1 }}
"""


def _stream_text(kind: str, target: Target) -> str:
    """The kernel that reads, copies, or copies past the caches."""
    v, width = f"<{target.vector_bytes // 8} x i64>", target.vector_bytes
    sums, loop, done = [], [], []
    for j in range(_STREAM):
        loop += [f"  %at{j} = add i64 %offset, {j * width}", f"  %f{j} = getelementptr i8, ptr %from, i64 %at{j}",
                 f"  %x{j} = load {v}, ptr %f{j}, align {width}"]
        if kind == "read":
            sums.append(f"  %a{j} = phi {v} [ zeroinitializer, %entry ], [ %b{j}, %loop ]")
            loop.append(f"  %b{j} = xor {v} %a{j}, %x{j}")
            before = f"%s{j - 1}" if j else "zeroinitializer"
            done.append(f"  %s{j} = xor {v} {before}, %b{j}")
        else:
            past = ", !nontemporal !0" if kind == "copy past caches" else ""
            loop += [f"  %t{j} = getelementptr i8, ptr %to, i64 %at{j}", f"  store {v} %x{j}, ptr %t{j}, align {width}{past}"]
    if kind == "read":
        done.append(f"  store {v} %s{_STREAM - 1}, ptr %mine, align {width}")
    parts = {name: "\n".join(lines) for name, lines in (("sums", sums), ("loop", loop), ("done", done))}
    return _STREAM_TEXT.format(round=_STREAM * width, line=_LINE, **parts)


def _memory_rates(threads: int) -> dict[str, Rate]:
    size = min(max(2 * _cached(), _SMALLEST), _LARGEST)
    source, sink = aligned(size, _LINE), aligned(size, _LINE)
    source[:] = sink[:] = 1  # gives them memory
    rates = {}
    for kind in ("read", "copy", "copy past caches"):
        kernel, moved = _kernel(_stream_text(kind, native())), size if kind == "read" else 2 * size
        rates[kind] = Rate(*(_best(kernel, (size, source, sink), n, _STREAM_SECONDS, moved) for n in (1, threads)))
    return rates


def _cached() -> int:
    """Bytes of all caches of a core but that of its instructions."""
    return sum([c.size for c in caches() if c.kind != "instruction"])


# ----------------------------------------------------------------------------------------------------------- timing


class _Kernel:
    """A compiled text: the address of its function, good as long as this lives."""

    def __init__(self, text: str) -> None:
        self._loaded = codegen.load_object(codegen.compile_module(text))
        self.address = self._loaded.address("run")


_kernel = cache(_Kernel)


def _timed(kernel: _Kernel, arguments: tuple[int, np.ndarray, np.ndarray], threads: int) -> float:
    """Seconds of one run."""
    size, source, sink = arguments
    words = np.array([size, source.ctypes.data, sink.ctypes.data], np.int64)
    address = words.ctypes.data
    start = time.perf_counter()
    team.dispatch(kernel.address, address, threads)
    return time.perf_counter() - start


def _best(kernel: _Kernel, arguments: Any, threads: int, seconds: float, work: float) -> float:
    """The best rate, in 10⁹ of `work` a second, seen in `seconds` and at least three runs."""
    end, times = time.perf_counter() + seconds, [_timed(kernel, arguments, threads) for _ in range(3)]
    while time.perf_counter() < end:
        time.sleep(_PAUSE)
        times.append(_timed(kernel, arguments, threads))
    return work / min(times) / 1e9
