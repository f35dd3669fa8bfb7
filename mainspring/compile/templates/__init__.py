"""The templates: loop nests of the ops that have no iteration space. Importing the package registers all in `TEMPLATES`."""

from mainspring.compile.template import TEMPLATES
from mainspring.compile.templates import cumulative, scatter, sort

__all__ = ["TEMPLATES", "cumulative", "scatter", "sort"]
