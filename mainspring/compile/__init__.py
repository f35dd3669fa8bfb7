"""Graph to native code: with this you can `lower` a graph to a program of kernels, and emit its loops as LLVM or as Python.

`lower.py` is the column of passes; read it first.
"""
