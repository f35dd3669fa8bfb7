"""Models. With this you can build a network from modules, which are frozen dataclasses and so trees:

    a, b = ms.random.split(ms.random.key(0))
    model = nn.Sequential.create(nn.Linear.create(a, 784, 128), nn.relu, nn.Dropout(0.1), nn.Linear.create(b, 128, 10))
    logits = model(x)                                                # evaluation
    logits, model = model.forward(x, training=True, key=key)         # training: dropout draws, BatchNorm's statistics move

Modules with weights are made by ``create(key, …)`` (norms, which draw nothing, by ``create(…)``), others by their
constructor. Inputs are channels-last, weights [in, out]. `mainspring.nn.module` says how to write a module.
"""

from mainspring.nn import init
from mainspring.nn.attention import FeedForward, KeyValueCache, MultiHeadAttention, TransformerBlock
from mainspring.nn.container import Sequential
from mainspring.nn.layers import (
    Activation,
    AdaptiveAvgPool,
    AvgPool,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
)
from mainspring.nn.module import Module, Stateful, count_parameters, trainable
from mainspring.nn.norm import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from mainspring.nn.recurrent import GRU, LSTM, GRUCell, LSTMCell
from mainspring.ops.composed import (
    elu,
    gelu,
    glu,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    silu,
    softmax,
    softplus,
)
from mainspring.ops.losses import (
    bce,
    bce_with_logits,
    cross_entropy,
    gaussian_nll,
    huber,
    kl_div,
    mae,
    mse,
    nll,
    smooth_l1,
)

__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "Embedding",
    "FeedForward",
    "Flatten",
    "GRUCell",
    "GlobalAvgPool",
    "GroupNorm",
    "KeyValueCache",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "Module",
    "MultiHeadAttention",
    "RMSNorm",
    "Sequential",
    "Stateful",
    "TransformerBlock",
    "bce",
    "bce_with_logits",
    "count_parameters",
    "cross_entropy",
    "elu",
    "gaussian_nll",
    "gelu",
    "glu",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "huber",
    "init",
    "kl_div",
    "leaky_relu",
    "log_softmax",
    "mae",
    "mish",
    "mse",
    "nll",
    "relu",
    "relu6",
    "selu",
    "silu",
    "smooth_l1",
    "softmax",
    "softplus",
    "trainable",
]
