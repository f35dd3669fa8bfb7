"""Load a trained run and let it write from Python.

mainspring train --steps 500 --out runs/short
python examples/write_text.py runs/short "ROMEO:"
"""

from __future__ import annotations

import sys
from pathlib import Path

from mainspring.recipes.sampling import Sampling
from mainspring.recipes.shakespeare import Config, generate
from mainspring.train import RunFolder


def main(run: str, prompt: str) -> None:
    folder, config = RunFolder.existing(Path(run))
    config.pop("recipe")
    for piece in generate(Config(**config), folder.checkpoints, prompt, Sampling(tokens=300, temperature=0.8, top_k=20)):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:3])
