"""Training: a step as a pure function, a loop that evaluates, reports, saves and resumes bit for bit.

With this you can write your own job in a page: make a `Task` (model, optimizer, loss, loader, validation), choose
`Settings`, and `fit` it in a `RunFolder`; or take the parts (`training_step`, `checkpoint`, `MetricsWriter`) one by one.
"""

from mainspring.train import checkpoint
from mainspring.train.evaluate import Validation
from mainspring.train.folder import RunFolder
from mainspring.train.interrupt import Interrupt
from mainspring.train.loop import Outcome, Progress, Task, fit
from mainspring.train.metrics import MetricsWriter, read_metrics
from mainspring.train.settings import Settings
from mainspring.train.state import TrainState, initial_state, load_model
from mainspring.train.step import training_step
from mainspring.train.tensorboard import EventWriter
from mainspring.train.view import Lines, View

__all__ = [
    "EventWriter",
    "Interrupt",
    "Lines",
    "MetricsWriter",
    "Outcome",
    "Progress",
    "RunFolder",
    "Settings",
    "Task",
    "TrainState",
    "Validation",
    "View",
    "checkpoint",
    "fit",
    "initial_state",
    "load_model",
    "read_metrics",
    "training_step",
]
