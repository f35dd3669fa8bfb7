"""How memory is reached from a kernel: addresses, runs of lanes, gathers and scatters, with a mask or without.

With this you can load and store what `values` asks for, at addresses that it has found.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from mainspring.compile.emit.scalar import memory_type
from mainspring.compile.loops import LANES, Buffer
from mainspring.compile.vectormath.values import (
    I1,
    I8,
    I16,
    I32,
    I64,
    PTR,
    Literal,
    Value,
    constant,
    function,
    poison,
    suffix,
    type_of,
)

_REVERSE = ir.Constant(ir.VectorType(I32, LANES), list(range(LANES - 1, -1, -1)))
_LOWER = ir.Constant(ir.VectorType(I32, LANES // 2), list(range(LANES // 2)))
_BESIDE = ir.Constant(ir.VectorType(I32, LANES), list(range(LANES)))


class Memory:
    """The memory of one kernel: `pointers` says where its buffers lie. `entry` writes at its top, `b` where it is now."""

    def __init__(self, entry: ir.IRBuilder, b: ir.IRBuilder):
        self.entry, self.b = entry, b
        self.pointers: dict[Buffer, ir.Value] = {}
        self._spare_slot: ir.Value | None = None

    def alloca(self, t: ir.Type, align: int = 64) -> ir.Value:
        slot = self.entry.alloca(t)
        slot.align, slot.type = align, PTR
        return slot

    def _address(self, buffer: Buffer, index: Value) -> ir.Value:
        address = self.b.gep(self.pointers[buffer], [index.raw], source_etype=memory_type(buffer.dtype))
        address.type = type_of(PTR, index.lanes)  # llvmlite does not know that indices may be vectors
        return address

    def _spare(self) -> ir.Value:
        """An address that may always be read."""
        if self._spare_slot is None:
            self._spare_slot = self.alloca(ir.ArrayType(I8, 64))
            self.entry.store(ir.Constant(I64, 0), self._spare_slot, align=8)
        return self._spare_slot

    # -------------------------------------------------------------------------------------------------------- run of lanes

    def _load_run(self, t: ir.Type, address: ir.Value, mask: Value | None, align: int, backwards: bool) -> ir.Value:
        if mask is None:
            raw = self.b.load(address, typ=t, align=align)
        else:
            lanes = self._reversed(mask.raw) if backwards else mask.raw
            raw = self._masked("load", t, address, [lanes, Literal(t, "zeroinitializer")], align, 0)
        return self._reversed(raw) if backwards else raw

    def _lower(self, raw: ir.Value) -> ir.Value:
        """The lower half of the lanes."""
        return self.b.shuffle_vector(raw, poison(raw.type), _LOWER)

    def _beside_zeros(self, raw: ir.Value) -> ir.Value:
        """LANES of which these are the lower half."""
        return self.b.shuffle_vector(raw, Literal(raw.type, "zeroinitializer"), _BESIDE)

    def _load_runs(self, buffer: Buffer, first: Value, places: Sequence[int], active: Sequence[bool],
                   runs: Sequence[tuple[int, int]]) -> ir.Value:
        """Lane by lane the element `places` after `first`, read in `runs` of so many elements from such a place; else 0."""
        element, align = memory_type(buffer.dtype), buffer.dtype.itemsize
        found = Literal(ir.VectorType(element, LANES), "zeroinitializer")
        for start, length in runs:
            t = ir.VectorType(element, length)
            run = self.b.load(self._address(buffer, first + start), typ=t, align=align)
            mine = [a and start <= p < start + length for p, a in zip(places, active, strict=True)]
            picks = [p - start if m else 0 for p, m in zip(places, mine, strict=True)]
            spread = self.b.shuffle_vector(run, poison(t), ir.Constant(ir.VectorType(I32, LANES), picks))
            found = spread if all(mine) else self.b.select(ir.Constant(ir.VectorType(I1, LANES), mine), spread, found)
        return found

    def _store_run(self, raw: ir.Value, address: ir.Value, mask: Value | None, align: int, backwards: bool) -> None:
        if backwards:
            raw = self._reversed(raw)
        if mask is None:
            self.b.store(raw, address, align=align)
            return
        lanes = self._reversed(mask.raw) if backwards else mask.raw
        self._masked("store", ir.VoidType(), address, [raw, self._hidden(lanes) if align < 4 else lanes], align, 1)

    def _gather(self, t: ir.Type, addresses: ir.Value, mask: Value | None, align: int) -> ir.Value:
        everywhere = constant(I1, True, LANES)
        zero = Literal(t, "zeroinitializer")
        if mask is None:
            return self._masked("gather", t, addresses, [everywhere, poison(t)], align, 0)
        if align >= 4:
            return self._masked("gather", t, addresses, [mask.raw, zero], align, 0)
        spare = Value(self.b, self._spare()).splat()  # no gather of narrow elements: sixteen loads, none of them in a branch
        safe = self.b.select(mask.raw, addresses, spare.raw)
        return self.b.select(mask.raw, self._masked("gather", t, safe, [everywhere, poison(t)], align, 0), zero)

    def _scatter(self, raw: ir.Value, addresses: ir.Value, mask: Value | None, align: int) -> None:
        lanes = mask.raw if mask is not None else constant(I1, True, LANES)
        self._masked("scatter", ir.VoidType(), addresses, [raw, lanes], align, 1)

    def _masked(self, name: str, result: ir.Type, pointer: ir.Value, arguments: list[ir.Value], align: int,
                at: int) -> ir.Value:
        """llvm.masked.`name`; `at` is the position of the pointer among the arguments."""
        vector = result if not isinstance(result, ir.VoidType) else arguments[0].type
        known_as = f"llvm.masked.{name}.{suffix(vector)}.{'v16p0' if name in ('gather', 'scatter') else 'p0'}"
        operands = [*arguments[:at], pointer, *arguments[at:]]
        callee = function(self.b.module, known_as, result, [o.type for o in operands])
        callee.args[at].attributes.align = align
        return self.b.call(callee, operands)

    def _reversed(self, raw: ir.Value) -> ir.Value:
        return self.b.shuffle_vector(raw, poison(raw.type), _REVERSE)

    def _hidden(self, lanes: ir.Value) -> ir.Value:
        """`lanes` through an empty instruction, so that LLVM cannot know them when it compiles.

        On x86 with 256-bit vectors LLVM 22 makes a plain load of that half of a masked load for which it knows that no lane is
        read, where there should be zeros: a border that begins with the upper half of a vector.
        LLVM 22 turns a masked store of 1 or 2 bytes whose mask is one known lane into a store of 4 bytes on x86 where the value
        was narrowed (rounded to bfloat16, cut to int8): it stores the wide register. The bytes behind belong to another task.
        """
        bits = self.b.bitcast(lanes, I16)
        return self.b.bitcast(self.b.asm(ir.FunctionType(I16, [I16]), "", "=r,0", [bits], False), lanes.type)

    def _write_one(self, address: ir.Value, value: Value, guard: Value | None, align: int) -> None:
        if guard is None:
            self.b.store(value.raw, address, align=align)
            return
        with self.b.if_then(guard.raw):
            self.b.store(value.raw, address, align=align)
