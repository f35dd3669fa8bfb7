"""Derivatives from the ops' vjp rules: with this you can take `grad`, `vjp`, `jvp`, of any order, eager or traced.

A rule is written in ops and knows nothing of modes, so this package needs op records only and stands above `ops`.
"""
