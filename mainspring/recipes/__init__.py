"""Recipes: whole jobs, each a small file to read, run (`mainspring train NAME`) and copy.

    shakespeare   a character GPT that learns to write like the tiny Shakespeare text, or any text of yours
    digits        a residual CNN on small images
    tagger        an LSTM that restores capitals and punctuation

With this you can find one (`find("digits")`). A recipe is its settings, and functions that make of them a model, an
optimizer, a `Task` for the loop, and a sample of what was learned.
"""

from __future__ import annotations

import difflib
import importlib

from mainspring.base.errors import ArgumentError
from mainspring.recipes.recipe import Recipe

NAMES = ("shakespeare", "digits", "tagger")
DEFAULT = NAMES[0]


def find(name: str) -> Recipe:
    """The recipe called `name`; raises ArgumentError with the nearest name when there is none."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1, 0.5) or [DEFAULT]
        rule = f"it must be one of {', '.join(NAMES)}"
        raise ArgumentError("train", "recipe", rule, repr(name), f"mainspring train {near[0]}")
    found: Recipe = importlib.import_module(f"mainspring.recipes.{name}").RECIPE
    return found


__all__ = ["DEFAULT", "NAMES", "Recipe", "find"]
