"""The templates: loop nests of the ops that have no iteration space. Importing the package registers all in `TEMPLATES`."""

from mainspring.compile.template import TEMPLATES
from mainspring.compile.templates import along, attention, attention_gradient, cumulative, recurrent, scatter, sort

__all__ = ["TEMPLATES", "along", "attention", "attention_gradient", "cumulative", "recurrent", "scatter", "sort"]
