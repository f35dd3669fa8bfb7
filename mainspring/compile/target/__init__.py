"""Target machines as tables of facts: what the code generator may use and what the tuner may assume.

With this you can ask for the machine the process runs on (`native()`) or one by name (`by_name("x86-64-v3")`). A target
is data: no module branches on the name of a machine, only on a fact of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

from mainspring.base import flags
from mainspring.base.errors import ArgumentError
from mainspring.compile.target.caches import share
from mainspring.compile.target.costs import COSTS, Costs
from mainspring.types.dtype import DType


@dataclass(frozen=True)
class Target:
    """A machine to compile for.

    Args:
        name: how flags and cache keys call it.
        triple: LLVM target triple.
        cpu: LLVM processor name.
        features: LLVM feature string, e.g. ``"+avx2,+fma"``.
        vector_registers: number of architectural vector registers.
        vector_bytes: width of one of them, in bytes.
        has: the instruction sets that kernels ask for, of "avx2", "avx512", "vnni", "bf16", "neon", "dotprod".
        l1_bytes, l2_bytes: caches of one core that kernels may count on.
        costs: what work costs on it. Unlike the rest, this leads decisions alone, and what is written for a target is right on
            any machine that has its instructions.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_registers: int
    vector_bytes: int
    has: frozenset[str] = frozenset()
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    costs: Costs = COSTS["avx2"]

    def lane_registers(self, dtype: DType) -> int:
        """Vector registers that 16 lanes of `dtype` take."""
        return max(1, 16 * dtype.itemsize // self.vector_bytes)

    def accumulators(self, dtype: DType) -> int:
        """16-lane accumulators of `dtype` that fit in three quarters of the vector registers."""
        return max(1, self.vector_registers * 3 // 4 // self.lane_registers(dtype))

    def registers(self, dtype: DType) -> int:
        """16-lane accumulators of `dtype` that fit when one register is left for each operand."""
        return max(1, (self.vector_registers - 2) // self.lane_registers(dtype))

    @property
    def key(self) -> str:
        """What compiled code depends on, beside what it was written from and the costs: instructions and caches."""
        return f"{self.triple}/{self.cpu}/{self.features}/{self.l1_bytes}/{self.l2_bytes}"


_X86_V3 = "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse4.2"
_X86_VNNI = ",+avx512vnni,+avx512bf16"
_X86_V4 = _X86_V3 + ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("x86-64-v3", "x86_64-unknown-linux-gnu", "x86-64-v3", _X86_V3, 16, 32, frozenset({"avx2"})),
        Target("x86-64-v4", "x86_64-unknown-linux-gnu", "x86-64-v4", _X86_V4, 32, 64, frozenset({"avx2", "avx512"}),
               costs=COSTS["avx512"]),
        Target("x86-64-v4-bf16", "x86_64-unknown-linux-gnu", "cooperlake", _X86_V4 + _X86_VNNI, 32, 64,
               frozenset({"avx2", "avx512", "vnni", "bf16"}), costs=COSTS["avx512"]),
        Target("aarch64", "aarch64-unknown-linux-gnu", "generic", "+neon,+fp-armv8", 32, 16, frozenset({"neon"}),
               costs=COSTS["neon"]),
        Target("aarch64-dotprod", "aarch64-unknown-linux-gnu", "generic", "+neon,+fp-armv8,+dotprod", 32, 16,
               frozenset({"neon", "dotprod"}), costs=COSTS["neon"]),
    )
}

# LLVM feature -> the name under which kernels ask for it
_FACTS = {
    "avx2": "avx2", "avx512bw": "avx512", "avx512vnni": "vnni", "avxvnni": "vnni", "avx512bf16": "bf16", "bf16": "bf16",
    "neon": "neon", "dotprod": "dotprod",
}


# LLVM names of processors that do AVX-512 in halves: one multiply-add of 64 bytes a cycle
_HALVES = frozenset({"znver4"})


@cache
def native() -> Target:
    """The machine this process runs on."""
    features = llvm.get_host_cpu_features()
    triple = llvm.get_process_triple()
    has = {fact for feature, fact in _FACTS.items() if features.get(feature, False)}
    if "avx512bw" in features and not (features["avx512bw"] and features.get("avx512vl") and features.get("avx512dq")):
        has.discard("avx512")
    if triple.startswith(("aarch64", "arm64")):
        registers, width, has = 32, 16, has | {"neon"}
    else:
        registers, width = (32, 64) if "avx512" in has else (16, 32 if "avx2" in has else 16)
    cpu = llvm.get_host_cpu_name()
    wide = "halves" if cpu in _HALVES else "avx512"
    costs = COSTS["neon" if "neon" in has else wide if "avx512" in has else "avx2"]
    return Target("native", triple, cpu, features.flatten(), registers, width, frozenset(has),
                  _cache_bytes(1, 16 << 10, Target.l1_bytes), _cache_bytes(2, 256 << 10, Target.l2_bytes), costs)


def _cache_bytes(level: int, least: int, usual: int) -> int:
    """What a thread may count on in its cache of this level, as the system tells; `usual` where that cannot be true, as
    virtual machines that make up a processor say."""
    told = share(level)
    return told if told is not None and least <= told <= 8 * least else usual


def by_name(name: str) -> Target:
    """The target called `name`, or the machine of this process for ``"native"``; raises ArgumentError for others."""
    if name == "native":
        return native()
    if name not in TARGETS:
        known = ", ".join(TARGETS)
        raise ArgumentError("target", "name", f"must be native or one of {known}", repr(name), "MS_TARGET=x86-64-v3")
    return TARGETS[name]


def chosen() -> Target:
    """The target that MS_TARGET names, whose code this process must be able to run."""
    target = by_name(flags.target())
    if target.triple.split("-")[0] != native().triple.split("-")[0]:
        raise ArgumentError("MS_TARGET", "target", "must be of this machine's architecture, for its code runs here",
                            f"{target.name} on {native().triple}", "MS_TARGET=native")
    return target
