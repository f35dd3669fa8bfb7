"""Ways into native programs beside a plain call: small ones as functions of Python, many runs of one as a single call.

With this you can make a built-in function of a loaded program (`function`), called with addresses as plain ints, or have a
program run several times without coming back to Python (`repeat`). ctypes takes about a microsecond to convert four arguments
and to give up and take back the interpreter's lock; a program of a few microseconds is better run under the lock.
The native part, below, is one for all programs: what it is to run lies in the `bytes` that the function is bound to.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import cache

from mainspring.compile.emit import codegen
from mainspring.compile.target import native
from mainspring.runtime import kernel_cache

# repeat: args := entry, count, (table, arena, scratch)*
# call: facts := entry, addresses in a call, arena, scratch, fixed addresses, address*
_SOURCE = """
declare ptr @PyBytes_AsString(ptr)
declare ptr @PyLong_AsVoidPtr(ptr)
declare ptr @PyLong_FromLong(i64)
declare ptr @PyErr_Occurred()
declare i32 @PyErr_BadArgument()
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define ptr @ms_call(ptr %self, ptr %args, i64 %count) {
entry:
  %facts = call ptr @PyBytes_AsString(ptr %self)
  %fact1 = getelementptr i64, ptr %facts, i64 1
  %fact2 = getelementptr i64, ptr %facts, i64 2
  %fact3 = getelementptr i64, ptr %facts, i64 3
  %fact4 = getelementptr i64, ptr %facts, i64 4
  %fixed.from = getelementptr i64, ptr %facts, i64 5
  %entry.address = load ptr, ptr %facts
  %wanted = load i64, ptr %fact1
  %arena = load ptr, ptr %fact2
  %scratch = load ptr, ptr %fact3
  %fixed = load i64, ptr %fact4
  %right = icmp eq i64 %count, %wanted
  br i1 %right, label %start, label %wrong
wrong:
  %raised = call i32 @PyErr_BadArgument()
  ret ptr null
start:
  %places = add i64 %count, %fixed
  %table = alloca i64, i64 %places
  %block = alloca [3 x ptr]
  br label %look
look:
  %i = phi i64 [ 0, %start ], [ %next, %keep ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %take, label %run
take:
  %arg.at = getelementptr ptr, ptr %args, i64 %i
  %arg = load ptr, ptr %arg.at
  %address = call ptr @PyLong_AsVoidPtr(ptr %arg)
  %null = icmp eq ptr %address, null
  br i1 %null, label %doubt, label %keep
doubt:
  %error = call ptr @PyErr_Occurred()
  %fine = icmp eq ptr %error, null
  br i1 %fine, label %keep, label %give.up
give.up:
  ret ptr null
keep:
  %place = getelementptr ptr, ptr %table, i64 %i
  store ptr %address, ptr %place
  %next = add i64 %i, 1
  br label %look
run:
  %fixed.to = getelementptr i64, ptr %table, i64 %count
  %bytes = mul i64 %fixed, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %fixed.to, ptr %fixed.from, i64 %bytes, i1 false)
  %block1 = getelementptr ptr, ptr %block, i64 1
  %block2 = getelementptr ptr, ptr %block, i64 2
  store ptr %table, ptr %block
  store ptr %arena, ptr %block1
  store ptr %scratch, ptr %block2
  call void %entry.address(ptr %block, ptr null, i64 0, i64 1)
  %zero = call ptr @PyLong_FromLong(i64 0)
  ret ptr %zero
}

define void @ms_repeat(ptr %args, ptr %state, i64 %tid, i64 %n) {
entry:
  %function = load ptr, ptr %args
  %count.at = getelementptr i64, ptr %args, i64 1
  %count = load i64, ptr %count.at
  %blocks = getelementptr i64, ptr %args, i64 2
  %alone = icmp eq i64 %n, 1
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %again ], [ %next, %wait ]
  %block = getelementptr [3 x ptr], ptr %blocks, i64 %i
  call void %function(ptr %block, ptr %state, i64 %tid, i64 %n)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %again, label %done
again:
  br i1 %alone, label %loop, label %wait
wait:
  %barrier = load ptr, ptr %state
  call void %barrier(ptr %state, i64 %n)
  br label %loop
done:
  ret void
}
"""
_FASTCALL = 0x80  # METH_FASTCALL: (self, pointer to the arguments, how many)


class _MethodDef(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = [("name", ctypes.c_char_p), ("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


class _Native:
    """The loaded native part, and how Python makes functions of it."""

    def __init__(self) -> None:
        data = kernel_cache.get_or_make(_SOURCE, native().key, lambda: codegen.compile_module(_SOURCE, native()))
        self.object = codegen.load_object(data)
        self.definition = _MethodDef(b"run", self.object.address("ms_call"), _FASTCALL, None)
        kind = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
        self.make = kind(("PyCFunction_NewEx", ctypes.pythonapi))
        self.repeat = self.object.address("ms_repeat")
        _made.append(self)


_made: list[_Native] = []  # for ever, as functions refer to its memory: two threads may make one each
_native = cache(_Native)


def function(entry: int, count: int, arena: int, scratch: int, fixed: Sequence[int] = ()) -> Callable[..., int]:
    """A function of `count` addresses that runs the program at `entry` on the caller's thread, and gives 0.

    Args:
        arena, scratch: addresses of the working memory. One is enough, for the interpreter's lock is held during a call.
            Whoever holds the function keeps it, and the program, alive.
        fixed: addresses that follow those of the call.

    The function raises TypeError for another number of arguments, or one that is no int.
    """
    made = _native()
    facts = struct.pack(f"{5 + len(fixed)}P", entry, count, arena, scratch, len(fixed), *fixed)
    return made.make(ctypes.addressof(made.definition), facts, None)  # type: ignore[no-any-return]


def repeat() -> int:
    """The address of a program that runs another several times, each thread going from one run to the next.

    It is called as any program, but with other arguments: the address of the other's entry, how often, and for each run the
    addresses of its pointer table, arena and scratch.
    """
    return _native().repeat
