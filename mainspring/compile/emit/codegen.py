"""Machine code: LLVM modules to relocatable objects, and objects into this process.

With this you can compile a module (`compile_module`), keep the bytes on disk, load them (`load_object`) and ask for the
address of a function. Objects hold no addresses: libm functions are bound by name when they are loaded. Modules are
compiled in contexts of their own and without the interpreter's lock, so two threads compile two modules at once.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from ctypes import string_at
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from llvmlite.binding import ffi

from mainspring.base import flags
from mainspring.base.errors import CompileError
from mainspring.compile.target import Target, native

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
llvm.initialize_native_asmparser()
# Machine LICM moves the constants of an epilogue's polynomials out of the loops around it, into registers that the product's
# accumulators need: erf after a matmul then costs three times as much. Constants are read as memory operands just as fast.
llvm.set_option("mainspring", "-disable-machine-licm")

SPEED_LEVEL = 2


@cache
def _all_targets() -> None:
    """What LLVM knows of other machines: 8 MB, for those who compile for them."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def _machine(target: Target) -> llvm.TargetMachine:
    """A target machine of its own: LLVM's are not to be shared between threads."""
    if target.triple != native().triple:
        _all_targets()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=SPEED_LEVEL, reloc="pic", codemodel="small")


def _options() -> llvm.PipelineTuningOptions:
    """LLVM's loop vectoriser and unroller stay off: the loop IR says what is a vector and what is unrolled."""
    options = llvm.create_pipeline_tuning_options(speed_level=SPEED_LEVEL)
    options.loop_vectorization = options.slp_vectorization = options.loop_interleaving = options.loop_unrolling = False
    return options


def _unlocked(function: Any) -> Callable[..., Any]:
    """`function` of llvmlite without its global lock, which would let only one thread compile; all its operands are ours."""
    return getattr(function, "_cfn", function)


def _optimised(module: ir.Module | str, target: Target) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    try:
        parsed = llvm.parse_assembly(str(module), llvm.create_context())
        if flags.verify():
            parsed.verify()
    except RuntimeError as error:
        raise CompileError("compile_module", "module", "must be valid LLVM text", str(error)) from error
    machine = _machine(target)
    parsed.triple = target.triple
    parsed.data_layout = str(machine.target_data)
    builder = llvm.create_pass_builder(machine, _options())
    passes = builder.getModulePassManager()
    _unlocked(ffi.lib.LLVMPY_RunNewModulePassManager)(passes, parsed, builder)
    return parsed, machine


def _emit(module: llvm.ModuleRef, machine: llvm.TargetMachine, as_object: bool) -> bytes:
    with ffi.OutputString() as error:
        memory = _unlocked(ffi.lib.LLVMPY_TargetMachineEmitToMemory)(machine, module, int(as_object), error)
        if not memory:
            raise CompileError("compile", "module", "LLVM cannot emit code for it", str(error))
    try:
        return string_at(ffi.lib.LLVMPY_GetBufferStart(memory), ffi.lib.LLVMPY_GetBufferSize(memory))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


def compile_module(module: ir.Module | str, target: Target | None = None) -> bytes:
    """The relocatable object of `module` (an llvmlite module or its text), optimised for `target` (default: this machine)."""
    parsed, machine = _optimised(module, target or native())
    return _emit(parsed, machine, as_object=True)


def assembly(module: ir.Module | str, target: Target | None = None) -> str:
    """The assembly text of `module`, optimised for `target`."""
    parsed, machine = _optimised(module, target or native())
    return _emit(parsed, machine, as_object=False).decode()


class Loaded:
    """An object in memory, ready to run; it leaves memory when nobody holds this any more."""

    def __init__(self, library: str, tracker: llvm.ResourceTracker):
        self._library, self._trackers = library, [tracker]

    def address(self, symbol: str) -> int:
        """The address of a function of the object; raises CompileError when there is none of that name."""
        try:
            tracker = _jit().lookup(self._library, symbol)
            self._trackers.append(tracker)  # a tracker that is dropped unloads the object
            return tracker[symbol]
        except RuntimeError as error:
            raise CompileError("load_object", "symbol", "no function of this name in the object", repr(symbol)) from error


_first = threading.Lock()  # two threads that load their first objects at once must not make two linkers


def _jit() -> llvm.LLJIT:
    with _first:
        return _linker()


@cache
def _linker() -> llvm.LLJIT:
    return llvm.create_lljit_compiler(_machine(native()))


_serial = itertools.count()


def load_object(code: bytes) -> Loaded:
    """Brings an object made by `compile_module` into this process; libm and libc are found by name."""
    library = f"mainspring{next(_serial)}"
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    return Loaded(library, builder.link(_jit(), library))
