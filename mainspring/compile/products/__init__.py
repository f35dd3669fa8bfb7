"""Sums of products, from 8 × 8 to a convolution's gradient: with this a `contract` or `conv` becomes kernels.

`contraction.py` says what is computed, `blocking.py` how it is cut, `tiled.py` and its neighbours write the loops of each way.
"""
