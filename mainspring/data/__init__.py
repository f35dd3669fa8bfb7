"""Data: text, images and labelled text as arrays, and a loader of batches that resumes exactly.

With this you can read real data (`shakespeare`, `read_text`, `images`, `digits`, `tag`), cut it into items (`Dataset`,
`Windows`, `next_symbol`) and draw shuffled batches in the background (`Loader`). NumPy in, NumPy out.
"""

from mainspring.data.dataset import Dataset, Windows, next_symbol
from mainspring.data.images import ImageData, digits, images
from mainspring.data.loader import Batches, Loader
from mainspring.data.tagged import MARKS, NUM_LABELS, Tagged, restore, tag
from mainspring.data.text import Vocabulary, read_text, shakespeare, split

__all__ = [
    "MARKS",
    "NUM_LABELS",
    "Batches",
    "Dataset",
    "ImageData",
    "Loader",
    "Tagged",
    "Vocabulary",
    "Windows",
    "digits",
    "images",
    "next_symbol",
    "read_text",
    "restore",
    "shakespeare",
    "split",
    "tag",
]
