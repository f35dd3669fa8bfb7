"""One team of threads a process: a native function is run by all of them at once, meeting at barriers.

With this you can run ``void f(ptr args, ptr state, i64 tid, i64 n)`` on n threads (`dispatch`) and, inside f, wait for
the others: the first word of `state` is the address of ``void barrier(ptr state, i64 n)``. The threads are ordinary
Python daemon threads that entered native code once, without the interpreter's lock, and stay there; waiting spins for
some microseconds and then sleeps in the kernel. The native part is a page of LLVM IR, below.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading
import time
from functools import cache
from typing import Any

import numpy as np

from mainspring.base import flags
from mainspring.compile.emit import codegen
from mainspring.compile.target import native
from mainspring.runtime import kernel_cache

SPIN_NS = 100_000  # between calls: a caller that comes back soon finds the team awake
BARRIER_SPIN_NS = 2_000_000  # within a call, where the others are known to be on their way: longer than a kernel takes
_STATE_BYTES = 8 * 128

# The state, one pair of cache lines each (bytes): 0 barrier, system call, spins between calls and at barriers (read only)
# · 128 word · 256 function and args · 384 sleepers on the word · 512 arrived at the barrier · 640 generation of the barrier
# · 768 sleepers on it · 896 turns (`emit.program.TURNS`).
# The word is (dispatch count << 11) | threads wanted; 2047 threads mean: leave.
_SOURCE = """
define void @ms_pause(i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  {pause}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}

define internal void @wait(ptr %state, ptr %word, i32 %old, ptr %sleepers, i64 %spins) noinline {{
entry:
  %limit.at = getelementptr i8, ptr %state, i64 %spins
  %limit = load i64, ptr %limit.at
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %next, %pause ]
  %seen = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %seen, %old
  br i1 %changed, label %done, label %more
more:
  %tired = icmp uge i64 %i, %limit
  br i1 %tired, label %sleep, label %pause
pause:
  {pause}
  %next = add i64 %i, 1
  br label %look
sleep:
  %up = atomicrmw add ptr %sleepers, i32 1 seq_cst
  %now = load atomic i32, ptr %word seq_cst, align 4
  %late = icmp ne i32 %now, %old
  br i1 %late, label %awake, label %doze
doze:
  {doze}
  br label %awake
awake:
  %down = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  %after = load atomic i32, ptr %word acquire, align 4
  %woken = icmp ne i32 %after, %old
  br i1 %woken, label %done, label %sleep
done:
  ret void
}}

define internal void @publish(ptr %state, ptr %word, i32 %value, ptr %sleepers) {{
entry:
  %before = atomicrmw xchg ptr %word, i32 %value seq_cst
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %anyone = icmp ne i32 %count, 0
  br i1 %anyone, label %wake, label %done
wake:
  {wake}
  br label %done
done:
  ret void
}}

; true for the last of n to arrive, who opens the barrier
define internal i1 @arrive(ptr %state, i64 %n, i32 %generation) {{
entry:
  %arrived = getelementptr i8, ptr %state, i64 512
  %before = atomicrmw add ptr %arrived, i32 1 seq_cst
  %n32 = trunc i64 %n to i32
  %count = add i32 %before, 1
  %last = icmp eq i32 %count, %n32
  br i1 %last, label %open, label %done
open:
  %word = getelementptr i8, ptr %state, i64 640
  %sleepers = getelementptr i8, ptr %state, i64 768
  store atomic i32 0, ptr %arrived monotonic, align 4
  %next = add i32 %generation, 1
  call void @publish(ptr %state, ptr %word, i32 %next, ptr %sleepers)
  br label %done
done:
  ret i1 %last
}}

define void @ms_barrier(ptr %state, i64 %n) {{
entry:
  %word = getelementptr i8, ptr %state, i64 640
  %generation = load atomic i32, ptr %word acquire, align 4
  %last = call i1 @arrive(ptr %state, i64 %n, i32 %generation)
  br i1 %last, label %done, label %others
others:
  %sleepers = getelementptr i8, ptr %state, i64 768
  call void @wait(ptr %state, ptr %word, i32 %generation, ptr %sleepers, i64 24)
  br label %done
done:
  ret void
}}

define void @ms_dispatch(ptr %state, ptr %function, ptr %args, i64 %n) {{
entry:
  %function.at = getelementptr i8, ptr %state, i64 256
  %args.at = getelementptr i8, ptr %state, i64 264
  store ptr %function, ptr %function.at
  store ptr %args, ptr %args.at
  call void @ms_announce(ptr %state, i64 %n)
  call void %function(ptr %args, ptr %state, i64 0, i64 %n)
  call void @ms_barrier(ptr %state, i64 %n)
  ret void
}}

define void @ms_announce(ptr %state, i64 %n) {{
entry:
  %word = getelementptr i8, ptr %state, i64 128
  %sleepers = getelementptr i8, ptr %state, i64 384
  %old = load atomic i32, ptr %word monotonic, align 4
  %count = and i32 %old, -2048
  %next = add i32 %count, 2048
  %n32 = trunc i64 %n to i32
  %new = or i32 %next, %n32
  call void @publish(ptr %state, ptr %word, i32 %new, ptr %sleepers)
  ret void
}}

define void @ms_worker(ptr %state, i64 %tid, i32 %first) {{
entry:
  %word = getelementptr i8, ptr %state, i64 128
  %sleepers = getelementptr i8, ptr %state, i64 384
  %generation.at = getelementptr i8, ptr %state, i64 640
  %function.at = getelementptr i8, ptr %state, i64 256
  %args.at = getelementptr i8, ptr %state, i64 264
  br label %loop
loop:
  %old = phi i32 [ %first, %entry ], [ %now, %called ], [ %now, %work ]
  call void @wait(ptr %state, ptr %word, i32 %old, ptr %sleepers, i64 16)
  %now = load atomic i32, ptr %word acquire, align 4
  %n32 = and i32 %now, 2047
  %leave = icmp eq i32 %n32, 2047
  br i1 %leave, label %done, label %called
called:
  %n = zext i32 %n32 to i64
  %mine = icmp ult i64 %tid, %n
  br i1 %mine, label %work, label %loop
work:
  %function = load ptr, ptr %function.at
  %args = load ptr, ptr %args.at
  call void %function(ptr %args, ptr %state, i64 %tid, i64 %n)
  %generation = load atomic i32, ptr %generation.at acquire, align 4
  %last = call i1 @arrive(ptr %state, i64 %n, i32 %generation)
  br label %loop
done:
  ret void
}}
"""
_LEAVE = 2047

# how a thread tells its core that it is waiting, by machine
_PAUSE = {"x86_64": "pause", "aarch64": "yield"}
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}

_SYSTEM = """%system.at{tag} = getelementptr i8, ptr %state, i64 8
  %system{tag} = load ptr, ptr %system.at{tag}
  """
_FUTEX_CALL = _SYSTEM + (
    "%r{tag} = call i64 (i64, ...) %system{tag}(i64 {number}, ptr %word, i32 {op}, i32 {value}, ptr null, ptr null, i32 0)"
)
_USLEEP_CALL = _SYSTEM + "%r{tag} = call i32 %system{tag}(i32 50)"


def _machine() -> str:
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def _has_futex() -> bool:
    return sys.platform == "linux" and _machine() in _FUTEX


def _source() -> str:
    """The native part for this operating system: waiting in the kernel by futex on Linux, by short sleeps elsewhere."""
    pause = f'call void asm sideeffect "{_PAUSE.get(_machine(), "")}", "~{{memory}}"()'
    if not _has_futex():
        return _SOURCE.format(pause=pause, doze=_USLEEP_CALL.format(tag="1"), wake="")
    number = _FUTEX[_machine()]
    doze = _FUTEX_CALL.format(tag="1", number=number, op=128, value="%old")  # FUTEX_WAIT | FUTEX_PRIVATE_FLAG
    wake = _FUTEX_CALL.format(tag="2", number=number, op=129, value=2**31 - 1)  # FUTEX_WAKE | FUTEX_PRIVATE_FLAG
    return _SOURCE.format(pause=pause, doze=doze, wake=wake)


class _Native:
    """The loaded native part: its functions for ctypes, the address of the barrier, the cost of one pause."""

    def __init__(self) -> None:
        text = _source()
        data = kernel_cache.get_or_make(text, native().key, lambda: codegen.compile_module(text, native()))
        self.object = codegen.load_object(data)
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self.worker = self._function("ms_worker", pointer, integer, ctypes.c_int32)
        self.dispatch = self._function("ms_dispatch", pointer, pointer, pointer, integer)
        self.announce = self._function("ms_announce", pointer, integer)
        self.barrier = self.object.address("ms_barrier")
        libc = ctypes.CDLL(None)
        self.system = ctypes.cast(libc.syscall if _has_futex() else libc.usleep, pointer).value or 0
        pause = self._function("ms_pause", integer)
        self.spins = [self._spins(pause, ns) for ns in (SPIN_NS, BARRIER_SPIN_NS)]

    def _function(self, name: str, *types: Any) -> Any:
        return ctypes.CFUNCTYPE(None, *types)(self.object.address(name))

    def _spins(self, pause: Any, ns: int) -> int:
        """How many pauses make `ns`."""
        best = min(_elapsed(pause, 500) for _ in range(3))
        return max(1, ns * 500 // max(best, 1))


def _elapsed(function: Any, argument: int) -> int:
    start = time.perf_counter_ns()
    function(argument)
    return time.perf_counter_ns() - start


_native = cache(_Native)


class Team:
    """The threads of this process. Thread 0 is whoever calls; the others are started when first wanted."""

    def __init__(self) -> None:
        self.native = _native()
        memory = np.zeros(_STATE_BYTES + 128, np.uint8)
        start = -memory.ctypes.data % 128
        self.memory = memory[start : start + _STATE_BYTES]
        self.state = self.memory.ctypes.data
        self.settings = self.memory[:32].view(np.int64)
        self.settings[:2] = self.native.barrier, self.native.system
        self.lock = threading.RLock()  # a signal handler may come back in between two dispatches
        self.threads: list[threading.Thread] = []
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def dispatch(self, function: int, args: int, threads: int) -> None:
        """Run the native function at address `function` on `threads` threads; returns when all have finished."""
        with self.lock:
            if threads > len(self.threads) + 1:
                self._grow(threads)
            self.settings[2:] = self.native.spins if threads <= self.cores else 0
            self.native.dispatch(self.state, function, args, threads)

    def _grow(self, threads: int) -> None:
        word = int(self.memory[128:132].view(np.int32)[0])
        for tid in range(len(self.threads) + 1, threads):
            args = (self.state, tid, word)
            thread = threading.Thread(target=self.native.worker, args=args, name=f"mainspring-{tid}", daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop(self, timeout: float = 2.0) -> None:
        """Send the threads home; waits for them at most `timeout` seconds."""
        if not self.lock.acquire(timeout=timeout):
            return  # another thread is still running a program; it dies with the process
        try:
            self.native.announce(self.state, _LEAVE)
            for thread in self.threads:
                thread.join(timeout)
            self.threads = []
        finally:
            self.lock.release()


_team: Team | None = None
_team_lock = threading.Lock()


def team() -> Team:
    """The team of this process, made when first asked for."""
    global _team
    if _team is None:
        with _team_lock:
            if _team is None:
                _team = Team()
    return _team


def dispatch(function: int, args: int, threads: int | None = None) -> None:
    """Run native ``void f(ptr args, ptr state, i64 tid, i64 n)`` at `function` on `threads` (default: the flag) threads.

    Calls from several Python threads take turns. A KeyboardInterrupt arrives after the call.
    """
    (_team or team()).dispatch(function, args, flags.threads() if threads is None else threads)


def _stop() -> None:
    if _team is not None:
        _team.stop()


def _forget() -> None:
    """In a forked child: the threads of the parent are not here."""
    global _team, _team_lock
    _team, _team_lock = None, threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
