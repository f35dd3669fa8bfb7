"""Op records, graphs, and the one way to apply an op: with this you can register an op, `bind` it, print, parse and verify
graphs. Scalar bodies (`scalar`) say what one element of a result is.
"""
