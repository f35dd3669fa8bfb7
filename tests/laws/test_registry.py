"""The registry holds everything the rest is derived from: no field is silent, and every op has samples."""

from __future__ import annotations

import inspect

import pytest

from mainspring.compile.templates import TEMPLATES
from mainspring.ir.op import OPS, Expand, NoGradient, Opaque, Space
from mainspring.types.dtype import ALL
from mainspring.types.shape import TensorType
from tests.laws.samples import MAKERS, STRUCTURAL, all_samples

#: ops that the lowering itself turns into steps
CONTROL = {"scan", "while_loop", "cond"}


@pytest.mark.parametrize("name", OPS)
def test_every_field_holds_a_rule_or_a_named_reason(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert callable(op.infer) and callable(op.reference)
    assert callable(op.space) or isinstance(op.space, (Expand, Opaque))
    assert callable(op.vjp) or isinstance(op.vjp, NoGradient)
    for rule in (op.space, op.vjp):
        if isinstance(rule, (Opaque, NoGradient)):
            assert rule.reason


def test_every_op_has_samples() -> None:
    assert set(MAKERS) | set(STRUCTURAL) == set(OPS), "tests/laws/samples.py: enter the op, or say why it cannot be applied"
    assert not set(MAKERS) & set(STRUCTURAL)
    assert not [name for name in MAKERS if not all_samples(name)]


@pytest.mark.parametrize("name", MAKERS)
def test_what_has_no_space_can_be_compiled_all_the_same(name: str) -> None:
    op = OPS[name]
    if isinstance(op.space, Opaque):
        assert name in TEMPLATES or name in CONTROL
    elif isinstance(op.space, Expand):
        assert inspect.isfunction(op.space.function)


def test_no_template_without_an_op() -> None:
    assert set(TEMPLATES) <= set(OPS)


@pytest.mark.parametrize("name", [n for n in MAKERS if not isinstance(OPS[n].space, (Opaque, Expand))])
def test_the_iteration_space_has_the_type_that_is_inferred(name: str) -> None:
    for sample in all_samples(name):
        inferred, space = OPS[name].infer(*sample.types, **sample.static), OPS[name].space_of(*sample.types, **sample.static)
        assert isinstance(inferred, TensorType) and isinstance(space, Space)
        assert space.extents == inferred.shape
        assert (space.combine != "") == bool(space.reduced) or (space.combine and not space.reduced)
        element = space.symbolic(sample.types)
        assert space.combine or element.dtype is inferred.dtype, (sample.types, element)


def test_every_dtype_is_taken_by_some_op() -> None:
    assert {t.dtype for sample in all_samples("copy") for t in sample.types} == set(ALL)
