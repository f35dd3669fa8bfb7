"""Mainspring: a model is written once, run eagerly while it is debugged and compiled as a whole training step.

With this you can use tensors (`ms.asarray`, the names and semantics of the Python array API standard 2024.12),
derivatives (`ms.grad`, `ms.vjp`, `ms.jvp`) and compiled functions (`ms.jit`). Models, optimizers, data, training and
pictures are `ms.nn`, `ms.optim`, `ms.data`, `ms.train` and `ms.viz`, loaded when they are first used.

The standard's complex dtypes and its `fft` and `linalg` extensions do not exist yet.
"""

# One thin list, packed on purpose: imports by file, then the same names sorted.
# ruff: noqa: I001, RUF022

from __future__ import annotations

import importlib
import math
import sys
from typing import TYPE_CHECKING, Any

from mainspring import autotune
from mainspring._version import __version__
from mainspring.autodiff.reverse import grad, jvp, value_and_grad, vjp
from mainspring.base import tree
from mainspring.base.errors import MainspringError
from mainspring.jit import jit
from mainspring.ops import random
from mainspring.ops import recurrent as _recurrent  # noqa: F401  registers the ops that layers use
from mainspring.ops.attention import attention, rotary
from mainspring.ops.composed import (
    batch_norm, celu, dropout, elu, gelu, glu, group_norm, hard_shrink, hard_sigmoid, hard_swish, hard_tanh, instance_norm,
    layer_norm, leaky_relu, log_sigmoid, log_softmax, mish, prelu, relu, relu6, rms_norm, selu, silu, soft_shrink, softmax,
    softmin, softplus, softsign, tanh_shrink,
)
from mainspring.ops.contract import matmul, outer, tensordot, vecdot
from mainspring.ops.conv import conv, conv_transpose
from mainspring.ops.einsum import einsum
from mainspring.ops.control import checkpoint, cond, while_loop
from mainspring.ops.creation import (
    arange, empty, empty_like, eye, full, full_like, linspace, ones, ones_like, zeros, zeros_like,
)
from mainspring.ops.cumulative import cumulative_max, cumulative_min, cumulative_prod, cumulative_sum, diff
from mainspring.ops.dlpack import from_dlpack
from mainspring.ops.elementwise import (
    abs, acos, acosh, add, asin, asinh, astype, atan, atan2, atanh, bitcast, bitwise_and, bitwise_invert,
    bitwise_left_shift, bitwise_or, bitwise_right_shift, bitwise_xor, ceil, clip, clz, conj, copysign, cos, cosh, digamma,
    divide, equal, erf, erfc, erfinv, exp, exp2, expm1, floor, floor_divide, fmod, greater, greater_equal, hypot, imag,
    isfinite, isinf, isnan, less, less_equal, lgamma, log, log10, log1p, log2, logaddexp, logical_and, logical_not,
    logical_or, logical_xor, maximum, minimum, multiply, negative, nextafter, not_equal, popcount, positive, power as pow,
    real, reciprocal, remainder, round, rsqrt, sigmoid, sign, signbit, sin, sinh, sqrt, square, stop_gradient, subtract,
    tan, tanh, trunc, where,
)
from mainspring.ops.indexing import (
    diagonal, dynamic_slice, dynamic_update_slice, meshgrid, nonzero, one_hot, put_along_axis, take, take_along_axis, tril,
    triu, unique_all, unique_counts, unique_inverse, unique_values,
)
from mainspring.ops.losses import bce, bce_with_logits, cross_entropy, gaussian_nll, huber, kl_div, mae, mse, nll, smooth_l1
from mainspring.ops.movement import (
    broadcast_arrays, broadcast_to, concat, expand_dims, flip, iota, matrix_transpose, moveaxis, pad, permute_dims, repeat,
    reshape, roll, split, squeeze, stack, swapaxes, tile, unstack,
)
from mainspring.ops.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, global_max_pool, max_pool, min_pool
from mainspring.ops.precision import Precision
from mainspring.ops.reduce import all, any, argmax, argmin, count_nonzero, logsumexp, max, mean, min, prod, std, sum, var
from mainspring.ops.scan import fori_loop, map_ as map, scan
from mainspring.ops.sorting import argsort, searchsorted, sort, topk
from mainspring.tensor import Tensor, asarray, from_numpy
from mainspring.types.dtype import (
    DType, bfloat16, bool_ as bool, float16, float32, float64, int16, int32, int64, int8, uint16, uint32, uint64, uint8,
)
from mainspring.types.info import can_cast, finfo, iinfo, isdtype, result_type
from mainspring.types.info import array_namespace_info as __array_namespace_info__

if TYPE_CHECKING:
    from mainspring import data, nn, optim, train
    from mainspring.tools import viz

__array_api_version__ = "2024.12"
e, inf, nan, pi = math.e, math.inf, math.nan, math.pi
newaxis = None

autotune.install()

_LAZY = {"data": "mainspring.data", "nn": "mainspring.nn", "optim": "mainspring.optim", "train": "mainspring.train",
         "viz": "mainspring.tools.viz"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(_LAZY[name])
    why = ": complex dtypes do not exist yet; hold the real and imaginary parts apart" if name.startswith("complex") else ""
    raise AttributeError(f"module 'mainspring' has no attribute {name!r}{why}", name=name, obj=sys.modules[__name__])


__all__ = [
    "DType", "MainspringError", "Precision", "Tensor", "__array_api_version__", "__array_namespace_info__", "__version__",
    "abs", "acos", "acosh", "adaptive_avg_pool", "add", "all", "any", "arange", "argmax", "argmin", "argsort", "asarray",
    "asin", "asinh", "astype", "atan", "atan2", "atanh", "attention", "avg_pool", "batch_norm", "bce", "bce_with_logits",
    "bfloat16", "bitcast", "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift",
    "bitwise_xor", "bool", "broadcast_arrays", "broadcast_to", "can_cast", "ceil", "celu", "checkpoint", "clip", "clz",
    "concat", "cond", "conj", "conv", "conv_transpose", "copysign", "cos", "cosh", "count_nonzero", "cross_entropy",
    "cumulative_max", "cumulative_min", "cumulative_prod", "cumulative_sum", "data", "diagonal", "diff", "digamma",
    "divide", "dropout", "dynamic_slice", "dynamic_update_slice", "e", "einsum", "elu", "empty", "empty_like", "equal",
    "erf", "erfc", "erfinv", "exp", "exp2", "expand_dims", "expm1", "eye", "finfo", "flip", "float16", "float32", "float64",
    "floor", "floor_divide", "fmod", "fori_loop", "from_dlpack", "from_numpy", "full", "full_like", "gaussian_nll", "gelu",
    "global_avg_pool", "global_max_pool", "glu", "grad", "greater", "greater_equal", "group_norm", "hard_shrink",
    "hard_sigmoid", "hard_swish", "hard_tanh", "huber", "hypot", "iinfo", "imag", "inf", "instance_norm", "int16", "int32",
    "int64", "int8", "iota", "isdtype", "isfinite", "isinf", "isnan", "jit", "jvp", "kl_div", "layer_norm", "leaky_relu",
    "less", "less_equal", "lgamma", "linspace", "log", "log10", "log1p", "log2", "log_sigmoid", "log_softmax", "logaddexp",
    "logical_and", "logical_not", "logical_or", "logical_xor", "logsumexp", "mae", "map", "matmul", "matrix_transpose",
    "max", "max_pool", "maximum", "mean", "meshgrid", "min", "min_pool", "minimum", "mish", "moveaxis", "mse", "multiply",
    "nan", "negative", "newaxis", "nextafter", "nll", "nn", "nonzero", "not_equal", "one_hot", "ones", "ones_like", "optim",
    "outer", "pad", "permute_dims", "pi", "popcount", "positive", "pow", "prelu", "prod", "put_along_axis", "random",
    "real", "reciprocal", "relu", "relu6", "remainder", "repeat", "reshape", "result_type", "rms_norm", "roll", "rotary",
    "round", "rsqrt", "scan", "searchsorted", "selu", "sigmoid", "sign", "signbit", "silu", "sin", "sinh", "smooth_l1",
    "soft_shrink", "softmax", "softmin", "softplus", "softsign", "sort", "split", "sqrt", "square", "squeeze", "stack",
    "std", "stop_gradient", "subtract", "sum", "swapaxes", "take", "take_along_axis", "tan", "tanh", "tanh_shrink",
    "tensordot", "tile", "topk", "train", "tree", "tril", "triu", "trunc", "uint16", "uint32", "uint64", "uint8",
    "unique_all", "unique_counts", "unique_inverse", "unique_values", "unstack", "value_and_grad", "var", "vecdot", "viz",
    "vjp", "where", "while_loop", "zeros", "zeros_like",
]
