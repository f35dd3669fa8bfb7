"""Optimizers and learning-rate schedules. With this you can turn gradients into updates, by pure functions of trees:

    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(optim.schedule.cosine(1e-3, 2000, warmup=100)))
    state = optimizer.init(model)
    updates, state = optimizer.update(grads, state, model)
    model = optim.apply_updates(model, updates)
"""

from mainspring.optim import schedule
from mainspring.optim.adaptive import (
    add_decayed_weights,
    matrices_only,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_lars,
    scale_by_lion,
    scale_by_rms,
    scale_by_trust_ratio,
    trace,
)
from mainspring.optim.optimizers import adagrad, adam, adamw, lamb, lars, lion, rmsprop, sgd
from mainspring.optim.several import accumulate, averaged, ema
from mainspring.optim.transform import (
    Optimizer,
    apply_updates,
    chain,
    clip,
    clip_by_global_norm,
    global_norm,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
)

__all__ = [
    "Optimizer",
    "accumulate",
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "averaged",
    "chain",
    "clip",
    "clip_by_global_norm",
    "ema",
    "global_norm",
    "lamb",
    "lars",
    "lion",
    "matrices_only",
    "rmsprop",
    "scale",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_lars",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_rms",
    "scale_by_schedule",
    "scale_by_trust_ratio",
    "schedule",
    "sgd",
    "trace",
]
