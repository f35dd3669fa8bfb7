"""Which values share a kernel: with this you can turn a graph into groups, one a kernel (`fuse.Fuser`).

`reads.py` finds the values and where they read each other, `grouping.py` puts them together, `again.py` says which are stored
and which are made again, `joints.py` asks where either would do; `likeness.py` tells which groups are the same work.
"""
