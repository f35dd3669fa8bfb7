"""Profiles: every kernel of the program is there, its arithmetic is known, and the operands stay whole."""

import numpy as np

import mainspring as ms


def test_a_profile_lists_the_kernels_of_a_call():
    x = ms.asarray(np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32))
    f = ms.jit(lambda a: (ms.softmax(a @ a.T), ms.sum(a, axis=0)))
    found = f.profile(x, runs=3)
    assert found.wall > 0 and all(r.ns > 0 for r in found.rows)
    assert {r.name.split()[0] for r in found.rows} >= {"tile", "row", "reduce"}
    assert any(r.flops == 2 * 64 * 64 * 48 for r in found.rows)
    assert "GFLOP/s" in str(found) and len(str(found).splitlines()) == len(found.rows) + 2


def test_launches_in_loops_are_counted_and_donated_operands_stay():
    w = ms.asarray(np.ones((4096,), np.float32))
    step = ms.jit(lambda w, xs: ms.scan(lambda w, x: (w + x, x), w, xs)[0], donate=0)
    found = step.profile(w, ms.ones((5, 4096)), runs=2)
    assert all(r.ns > 0 for r in found.rows)
    assert float(w[0]) == 1.0 and float(step(w, ms.ones((5, 4096)))[0]) == 6.0


def test_launches_in_a_loop_are_counted_as_often_as_they_run():
    def states(h, w, xs):
        return ms.scan(lambda h, x: (ms.tanh(h @ w + x),) * 2, h, xs)[1]

    found = ms.jit(states).profile(ms.ones((8, 48)), ms.ones((48, 48)), ms.ones((5, 8, 48)), runs=1)
    product, = [row for row in found.rows if row.name.startswith("tile")]
    assert product.launches == 5 and product.flops == 5 * 2 * 8 * 48 * 48
