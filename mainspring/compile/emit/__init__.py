"""Kernels as LLVM, and as Python, its oracle: with this you can turn the loops of a program into code.

`llvm.py` walks the statements, `values.py` their expressions, of the primitives in `scalar.py`; `memory.py` loads and stores.
`codegen.py` compiles the text.
"""
