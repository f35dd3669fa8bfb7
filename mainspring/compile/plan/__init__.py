"""From kernels to one program: what is done once, in which order, in whose memory.

`hoist` and `lasting` take launches out, `donate` lets results live in inputs, `schedule` orders, `memory` places.
"""
