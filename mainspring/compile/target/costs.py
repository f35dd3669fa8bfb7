"""What work costs on a machine: one table of facts, by which whoever decides how a kernel is made compares the ways.

With this you can ask what a part of a kernel should take (`target.costs.pack`), and take a table apart into text and back
(`Costs.to_text`, `Costs.from_text`). Whoever asks gets the table of the class of machine (`COSTS`), or the one that
`mainspring tune --fit` has fitted on this very machine. Costs lead decisions, and no decision changes a bit of a result.

Cycles unless a name says nanoseconds (`_ns`). A vector is `LANES` elements in a register; a wider one counts once a register.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

from mainspring.base.errors import ArgumentError


@dataclass(frozen=True)
class Costs:
    """The table of one machine. The defaults were fitted to measured candidates of 35 products with AVX2 (decision 021); what
    copies or reads a copy, by hand to a few more (decision 024)."""

    # products (`blocking`)
    multiply: float = 0.5  # a vector of multiply-adds
    load: float = 0.5  # a vector or an element of an operand, at one k
    chain: float = 5.8  # at least so many for a k: sums that wait for themselves
    step: float = 0.1  # a k, beside those
    bank: float = 0.15  # a row of the tile in place, at each k: rows whole lines apart share a bank of the cache
    base: float = 0.01  # a row of windows in place beyond those whose addresses find registers, at each k
    crowd: float = 0.15  # a row of the tile in place, at each k, beyond those that a set of the first-level cache holds
    left: float = 0.13  # a byte of a row tile in place, at each panel, when tile and panel leave the first-level cache
    near: float = 0.03  # the same of one that was copied
    right: float = 0.005  # the same for a byte of a panel, at each row tile
    crossing: float = 0.022  # the same for a panel in place, whose rows lie far apart: few sets of the first level hold them
    colliding: float = 0.1  # the same where the second level holds no more of them
    left_first: float = 0.036  # a byte of the left operand, when it comes from afar
    left_again: float = 0.018  # the same of one that was copied, at the next few panels, when no second level holds it
    right_first: float = 0.016  # the same for the right one
    right_far: float = 0.06  # the same where the second level does not hold the panels of a task
    lines_first: float = 0.4  # more for a right one in place that no second level holds: a line of a row, then one far away
    afar: float = 0.45  # a byte that one product leaves to the windows of the next, where no second level holds it
    chunk: float = 24.0  # a chain
    keep: float = 1.06  # a vector of sums of a chain, cleared and kept
    finish: float = 1.05  # a vector of sums on the way to the result
    row: float = 6.0  # a row of the tile, on that way
    across: float = 2.0  # an element of a left operand that is copied across, its rows along k
    columns: float = 1.0  # the same, its columns along k
    rows: float = 0.4  # the same along
    pack: float = 5.4  # a vector of a panel, packed by the task
    pack_far: float = 9.0  # the same when no second-level cache holds the operand
    pack_across: float = 15.0  # the same when it lies across
    kernel: float = 9.0  # a vector of a panel, packed by a kernel before
    kernel_across: float = 22.0  # the same when it lies across

    # tasks and kernels
    task: float = 500.0
    barrier: float = 3700.0  # a kernel more

    # sweeps of recurrent layers (`templates.dealing`)
    round: float = 8000.0  # a launch and a barrier, and waiting for the slowest
    tile: float = 40.0  # around the loop of a register tile
    cell: float = 8.0  # a vector of units, beside the product
    line_near: float = 3.0  # a line of weights that comes from beyond the first-level cache
    line_far: float = 7.0  # the same from beyond the second

    # products of few rows (`contraction`, `chains`)
    strip_rows: float = 3.0  # up to so many rows, packing costs more than it brings
    chain_rows: float = 32.0  # up to so many, chains of k are tasks of their own …
    chain_elements: float = 131072.0  # … for a right operand of so many elements, which no cache holds

    # whole programs
    again_flops: float = 48.0  # an element's work up to which it is done again, rather than its result written and read
    wake_ns: float = 50_000.0  # work below which the caller's thread is done before a team would be, …
    barrier_ns: float = 6_000.0  # … and for each barrier that the team would meet
    bytes_per_ns: float = 24.0  # in the caches
    product_flops_per_ns: float = 60.0  # in register tiles
    flops_per_ns: float = 30.0  # elsewhere

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < math.inf):
                raise ArgumentError("Costs", name, "must be a positive number", repr(value), f"{name}=1.0")

    @cached_property
    def key(self) -> str:
        """Text that differs between tables."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()[:16]

    def to_text(self) -> str:
        """All costs as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | bytes) -> Costs:
        """The table that `to_text` wrote; raises ArgumentError for any other text, and for one with other names."""
        rule = "must be what to_text wrote"
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ArgumentError("Costs.from_text", "text", rule, str(error)) from error
        if not isinstance(found, dict) or set(found) != {f.name for f in fields(cls)}:
            raise ArgumentError("Costs.from_text", "text", rule, repr(text)[:80], "the names of Costs, each with a number")
        return cls(**found)


_AVX2 = Costs()
# fitted to measured candidates of 63 products on Zen 4 (decision 034); sweeps, a barrier and a task by hand
_AVX512 = Costs(
    multiply=0.5, load=0.51, chain=5.8, step=0.13, bank=0.01, base=0.35, crowd=2.5, left=0.0025, near=0.0087, right=0.0034,
    crossing=0.0013, colliding=0.0031, left_first=0.0057, left_again=0.012, right_first=0.0022, right_far=0.023,
    lines_first=0.0072, chunk=16.0, keep=7.1, finish=0.98, row=2.7, across=0.66, columns=0.85, pack=5.1, pack_far=6.8,
    pack_across=10.0, kernel=16.0, kernel_across=20.0, task=250.0, barrier=2500.0, line_near=2.6, line_far=3.2)
#: by class of machine; "halves": AVX-512 whose vectors of 64 bytes are done in two halves. Of NEON nothing was measured: its
#: registers enter by their number and width, and what a register costs is about the same (two multiply-adds and two loads a
#: cycle, four cycles of latency). "avx512" differs from "halves" in multiply-adds alone
COSTS: dict[str, Costs] = {"avx2": _AVX2, "avx512": _AVX512, "halves": replace(_AVX512, multiply=1.0), "neon": _AVX2}
