"""Kernels as LLVM, and as Python, its oracle: with this you can turn the loops of a program into code.

`llvm.py` walks the statements, `values.py` their expressions; `scalar.py` has the primitives. `codegen.py` compiles the text.
"""
