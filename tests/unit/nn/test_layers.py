"""Layers: shapes, dtypes and values against the functions they stand for; gradients in every weight; initializers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest

import mainspring as ms
from mainspring import nn
from mainspring.base import tree
from mainspring.base.errors import ArgumentError, ShapeError
from mainspring.nn import init
from mainspring.ops import composed, random
from tests.unit.numeric import assert_gradients

RNG = np.random.default_rng(6)
KEYS = list(random.split(random.key(11), 8))
LINE, IMAGE, VOLUME = (RNG.standard_normal((2, *spatial, 4)) for spatial in ((9,), (6, 7), (4, 5, 3)))

LAYERS = {  # layer, input, shape of the output
    "linear": (nn.Linear.create(KEYS[0], 4, 5), LINE, (2, 9, 5)),
    "linear without bias": (nn.Linear.create(KEYS[0], 4, 5, bias=False), IMAGE, (2, 6, 7, 5)),
    "conv1d": (nn.Conv1d.create(KEYS[0], 4, 6, 3, stride=2, groups=2), LINE, (2, 4, 6)),
    "conv2d": (nn.Conv2d.create(KEYS[0], 4, 6, (3, 2), padding="same"), IMAGE, (2, 6, 7, 6)),
    "conv2d dilated": (nn.Conv2d.create(KEYS[0], 4, 6, 3, dilation=2, padding=[1, (0, 1)], bias=False), IMAGE, (2, 4, 4, 6)),
    "conv3d": (nn.Conv3d.create(KEYS[0], 4, 2, 2), VOLUME, (2, 3, 4, 2, 2)),
    "transpose1d": (nn.ConvTranspose1d.create(KEYS[0], 4, 6, 3, stride=2, groups=2), LINE, (2, 19, 6)),
    "transpose2d": (nn.ConvTranspose2d.create(KEYS[0], 4, 6, 3, stride=2, padding=1, output_padding=1), IMAGE, (2, 12, 14, 6)),
    "transpose3d": (nn.ConvTranspose3d.create(KEYS[0], 4, 2, 2, bias=False), VOLUME, (2, 5, 6, 4, 2)),
    "max pool": (nn.MaxPool(2), IMAGE, (2, 3, 3, 4)),
    "avg pool": (nn.AvgPool((3, 2), stride=1, padding=((1, 1), (0, 0)), count_include_pad=False), IMAGE, (2, 6, 6, 4)),
    "global pool": (nn.GlobalAvgPool(), VOLUME, (2, 4)),
    "adaptive pool": (nn.AdaptiveAvgPool((3, 2)), IMAGE, (2, 3, 2, 4)),
    "flatten": (nn.Flatten(), IMAGE, (2, 168)),
    "activation": (nn.Activation(ms.tanh), LINE, (2, 9, 4)),
    "dropout": (nn.Dropout(0.5), LINE, (2, 9, 4)),
    "layer norm": (nn.LayerNorm.create(4), LINE, (2, 9, 4)),
    "rms norm": (nn.RMSNorm.create(4), LINE, (2, 9, 4)),
    "group norm": (nn.GroupNorm.create(4, 2), IMAGE, (2, 6, 7, 4)),
    "batch norm": (nn.BatchNorm.create(4), IMAGE, (2, 6, 7, 4)),
    "sequential": (nn.Sequential.create(nn.Conv2d.create(KEYS[1], 4, 3, 3), nn.relu, nn.BatchNorm.create(3), nn.Flatten()),
                   IMAGE, (2, 60)),
    "feed forward": (nn.FeedForward.create(KEYS[2], 4, 8), LINE, (2, 9, 4)),
    "gated": (nn.FeedForward.create(KEYS[2], 4, 8, gated=True, activation=nn.silu), LINE, (2, 9, 4)),
    "attention": (nn.MultiHeadAttention.create(KEYS[3], 4, 2), LINE, (2, 9, 4)),
    "block": (nn.TransformerBlock.create(KEYS[3], 4, 2, kv_heads=1, rotary=True, norm=nn.RMSNorm, dropout=0.1), LINE,
              (2, 9, 4)),
    "lstm": (nn.LSTM.create(KEYS[4], 4, 3, layers=2, bidirectional=True, dropout=0.5), LINE, (2, 9, 6)),
    "gru": (nn.GRU.create(KEYS[4], 4, 3), LINE, (2, 9, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_shape_dtype_forward_and_gradients(name):
    layer, x, shape = LAYERS[name]
    y = layer(ms.asarray(x, dtype=ms.float32))
    assert y.shape == shape and y.dtype is ms.float32
    again, same = layer.forward(ms.asarray(x, dtype=ms.float32))
    assert (again.numpy() == y.numpy()).all() and (same is layer or name == "sequential")
    for path, leaf in zip(tree.paths(layer), tree.leaves(layer), strict=True):
        assert leaf.dtype is ms.float32, path
    assert_gradients(lambda layer, x: layer(x), layer, x)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_passes_through(name, dtype):
    layer, x, shape = LAYERS[name]
    low = tree.map(lambda w: ms.astype(w, dtype), layer)
    y = low(ms.astype(ms.asarray(x), dtype))
    assert y.dtype == ms.astype(y, dtype).dtype and y.shape == shape
    assert np.allclose(np.asarray(ms.astype(y, ms.float32)), layer(x.astype(np.float32)).numpy(), rtol=0.1, atol=0.12)


def test_a_model_is_a_tree():
    model = LAYERS["sequential"][0]
    assert tree.paths(model) == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias", "layers.2.mean",
                                 "layers.2.var"]
    assert nn.count_parameters(model) == 3 * 3 * 4 * 3 + 3 + 6
    assert tree.paths(nn.trainable(model)) == tree.paths(model)[:4]
    doubled = tree.map(lambda w: w * 2, model)
    assert isinstance(doubled.layers[1], nn.Activation) and doubled.layers[0].padding == "valid"


def test_batch_norm_in_training_and_evaluation():
    norm, x = nn.BatchNorm.create(4, momentum=0.2), IMAGE.astype(np.float32) * 3 + 1
    y, new = norm.forward(x, training=True)
    mean, var, n = x.mean((0, 1, 2)), x.var((0, 1, 2)), x.size // 4
    assert np.allclose(y.numpy(), (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    assert np.allclose(new.mean.numpy(), 0.2 * mean, rtol=1e-5)
    assert np.allclose(new.var.numpy(), 0.8 + 0.2 * var * n / (n - 1), rtol=1e-5)
    assert np.allclose(new(x).numpy(), (x - new.mean.numpy()) / np.sqrt(new.var.numpy() + 1e-5), atol=1e-5)
    assert (norm(x).numpy() == norm.forward(x)[0].numpy()).all() and (norm.mean.numpy() == 0).all()
    grads = ms.grad(lambda m: ms.sum(m.forward(x, training=True)[0] ** 3))(norm)
    assert (grads.mean.numpy() == 0).all() and (grads.weight.numpy() != 0).all()
    assert_gradients(lambda m, x: replace(m).forward(x, training=True)[0], norm, x)


@dataclass(frozen=True, eq=False)
class Residual(nn.Stateful):
    """The example of `mainspring.nn.module`."""

    conv: nn.Conv2d
    norm: nn.BatchNorm

    def forward(self, x, *, training=False, key=None):
        h, norm = self.norm.forward(self.conv(x), training=training)
        return nn.relu(x + h), replace(self, norm=norm)


def test_statistics_pass_through_residual_nets():
    def block(key):
        return Residual(nn.Conv2d.create(key, 4, 4, 3, padding="same"), nn.BatchNorm.create(4))

    model = nn.Sequential.create(block(KEYS[0]), nn.Dropout(0.3), block(KEYS[1]), nn.GlobalAvgPool())

    def loss(model, x, key):
        y, model = model.forward(x, training=True, key=key)
        return ms.mean(y * y), model

    x = ms.asarray(IMAGE, dtype=ms.float32)
    (value, new), grads = ms.value_and_grad(loss, has_aux=True)(model, x, KEYS[2])
    assert tree.flatten(new)[1] == tree.flatten(model)[1]
    pairs = zip(tree.paths(model), tree.leaves(model), tree.leaves(new), strict=True)
    changed = [path for path, a, b in pairs if (a.numpy() != b.numpy()).any()]
    assert changed == ["layers.0.norm.mean", "layers.0.norm.var", "layers.2.norm.mean", "layers.2.norm.var"]
    assert float(loss(model, x, KEYS[2])[0]) == float(value) != float(loss(model, x, KEYS[3])[0])
    assert (grads.layers[0].conv.weight.numpy() != 0).any()


def test_embedding_and_tied_logits():
    table = nn.Embedding.create(KEYS[0], 10, 4)
    ids = np.array([[1, 9], [0, 1]])
    assert np.array_equal(table(ids).numpy(), table.weight.numpy()[ids])
    grads = ms.grad(lambda t: ms.sum(t(ids)))(table)
    assert grads.weight.numpy()[:, 0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert np.allclose(table.logits(LINE.astype(np.float32)).numpy(), LINE @ table.weight.numpy().T, rtol=1e-4, atol=1e-5)


def test_dropout_needs_a_key():
    x = ms.ones((50, 50))
    layer = nn.Sequential.create(nn.Dropout(0.5), nn.Dropout(0.5))
    assert (layer(x).numpy() == 1).all() and (layer.forward(x, training=True)[0].numpy() == 1).all()
    assert (layer.forward(x, key=KEYS[0])[0].numpy() == 1).all()
    dropped = layer.forward(x, training=True, key=KEYS[0])[0].numpy()
    assert set(np.unique(dropped)) == {0.0, 4.0} and abs((dropped == 0).mean() - 0.75) < 0.05  # the two layers draw apart


# ------------------------------------------------------------------------------------------------------ initializers

SHAPE = (3, 3, 20, 40)  # fan-in 180, fan-out 360
VARIANCES = {
    "normal": (partial(init.normal, std=0.5), 0.25), "uniform": (partial(init.uniform, low=-2.0, high=2.0), 16 / 12),
    "xavier_uniform": (init.xavier_uniform, 2 / 540), "xavier_normal": (init.xavier_normal, 2 / 540),
    "kaiming_uniform": (init.kaiming_uniform, 2 / 180), "kaiming_normal": (partial(init.kaiming_normal, fan="out"), 2 / 360),
    "lecun_uniform": (init.lecun_uniform, 1 / 180), "lecun_normal": (init.lecun_normal, 1 / 180),
    "truncated_normal": (partial(init.truncated_normal, std=2.0), 4 * 0.7737413), "zeros": (init.zeros,
                                                                                            0.0), "ones": (init.ones, 0.0),
    "orthogonal": (init.orthogonal, 1 / 180),
}


@pytest.mark.parametrize("name", VARIANCES)
def test_mean_variance_and_reproducibility(name):
    draw, variance = VARIANCES[name]
    w = draw(KEYS[0], SHAPE).numpy()
    assert w.shape == SHAPE and w.dtype == np.float32
    assert w.var() == pytest.approx(variance, rel=0.06) and abs(w.mean() - (name == "ones")) < 0.05 * math.sqrt(variance) + 1e-9
    assert np.array_equal(w, draw(KEYS[0], SHAPE).numpy())
    assert name in ("zeros", "ones") or not np.array_equal(w, draw(KEYS[1], SHAPE).numpy())
    assert draw(KEYS[0], (4, 5), ms.bfloat16).dtype is ms.bfloat16


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (3, 2, 4), (64, 64)])
def test_orthogonal(shape):
    w = init.orthogonal(KEYS[0], shape, ms.float64, gain=2.0).numpy().reshape(-1, shape[-1])
    gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    assert np.allclose(gram, 4 * np.eye(len(gram)), atol=1e-9)


def test_truncation_and_gain():
    assert np.abs(init.truncated_normal(KEYS[0], (1000,), std=3.0, bound=1.5).numpy()).max() <= 4.5
    assert init.gain("tanh") == 5 / 3 and init.gain("leaky_relu", 0.0) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("call, error", [
    (lambda: nn.Linear.create(KEYS[0], 0, 3), ArgumentError),
    (lambda: nn.Linear.create(KEYS[0], 5, 3)(LINE), ShapeError),
    (lambda: nn.Conv2d.create(KEYS[0], 3, 4, 3, groups=2), ShapeError),
    (lambda: nn.Conv2d.create(KEYS[0], 3, 4, (3, 3, 3)), ArgumentError),
    (lambda: nn.GroupNorm.create(4, 3), ShapeError),
    (lambda: nn.BatchNorm.create(3)(IMAGE), ShapeError),
    (lambda: nn.BatchNorm.create(4).forward(IMAGE[:1, :1, :1], training=True), ShapeError),
    (lambda: init.kaiming_normal(KEYS[0], (5,)), ShapeError),
    (lambda: init.gain("swish"), ArgumentError),
    (lambda: nn.LSTM.create(KEYS[0], 3, 4)(LINE), ShapeError),
])
def test_misuse(call, error):
    with pytest.raises(error):
        call()


def test_norms_are_the_functions():
    w, b = RNG.standard_normal(4), RNG.standard_normal(4)
    assert np.array_equal(nn.LayerNorm(w, b)(LINE).numpy(), composed.layer_norm(LINE, w, b).numpy())
    assert np.array_equal(nn.GroupNorm(w, b, 2)(IMAGE).numpy(), composed.group_norm(IMAGE, 2, w, b).numpy())
