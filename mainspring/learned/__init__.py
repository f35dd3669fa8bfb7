"""Learned parts, independent of the compiler: NumPy in, NumPy out.

With this you can tune anything that has knobs and a cost (`mainspring.learned.tune`). A learned part proposes; an exact step
follows.
"""
