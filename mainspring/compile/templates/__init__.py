"""The templates: loop nests of the ops that have no iteration space. Importing the package registers them all."""

from mainspring.compile.templates import cumulative, scatter, sort  # noqa: F401
