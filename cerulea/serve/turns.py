"""Work that threads take turn by turn, for kernels that Numba compiles.

In:      an int64 array of turns, all zero: two counters for each phase, parts taken and parts done.
Out:     `take` hands out parts, `finished` counts them, `await_all` returns when a phase's parts are all done.
Kept:    who works, works: within a phase no thread is waited for but the one that is within a part. A thread that the
         system holds back takes fewer parts, and one that comes late finds them done by others. (The parallel region
         around it all waits for every thread once, at its end.)
         A part must not raise: what it took would never be finished, and the others would wait for ever.
Not here: what the parts are (`kernels`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

STRIDE = 16  # numbers of a phase: its two counters lie on cache lines of their own
DONE = 8
PAUSES = 2000  # some 30 to 100 microseconds; a part takes 2 to 70
REST_US = 50  # then whoever is within the last part was held back by the system, and may need this processor


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


@intrinsic
def _add(_: Any, array: Any, at: Any, number: Any) -> Any:
    """Add to an element as one operation among threads; what it was before."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, sig.args[0], args[0], args[1])
        return builder.atomic_rmw("add", place, args[2], "acq_rel")

    return types.int64(array, types.intp, types.int64), generate


@intrinsic
def _read(_: Any, array: Any, at: Any) -> Any:
    """An element, and everything that was written before it was."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_place(context, builder, sig.args[0], args[0], args[1]), "acquire", 8)

    return types.int64(array, types.intp), generate


@intrinsic
def _pause(_: Any) -> Any:
    """Tell the processor that this thread waits for another one."""

    def generate(_context: Any, builder: Any, _sig: Any, _args: Any) -> Any:
        processor = builder.module.triple.split("-")[0]
        if processor == "x86_64":
            pause = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            )
            builder.call(pause, [])
        elif processor in ("aarch64", "arm64"):  # whose `yield` does nothing; this takes about as long
            barrier = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            builder.call(
                cgutils.get_or_insert_function(builder.module, barrier, "llvm.aarch64.isb"),
                [ir.Constant(ir.IntType(32), 15)],
            )
        return _context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _rest(_: Any) -> Any:
    """Give the processor away for a moment: the C library's usleep."""

    def generate(_context: Any, builder: Any, _sig: Any, _args: Any) -> Any:
        usleep = ir.FunctionType(ir.IntType(32), [ir.IntType(32)])
        builder.call(
            cgutils.get_or_insert_function(builder.module, usleep, "usleep"), [ir.Constant(ir.IntType(32), REST_US)]
        )
        return _context.get_dummy_value()

    return types.void(), generate


@njit
def take(turns, phase, parts):
    """The first of so many parts that now are this thread's; at or beyond the phase's count there are no more."""
    return _add(turns, phase * STRIDE, parts)


@njit
def finished(turns, phase, parts):
    """So many parts that this thread took are done."""
    _add(turns, phase * STRIDE + DONE, parts)


@njit
def await_all(turns, phase, count):
    """Return when all of a phase's parts are done, and what they wrote can be read."""
    pauses = 0
    while _read(turns, phase * STRIDE + DONE) < count:
        _pause()
        pauses += 1
        if pauses > PAUSES:
            _rest()
