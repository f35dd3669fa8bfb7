"""The meanings an application can have: with this you can run ops now (eager), trace them (staged) or ask types only (abstract).

Interpreters know op records, never single ops, so this package stands above `ops`.
"""
