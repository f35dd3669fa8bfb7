"""The meanings an application can have: with this you can run ops (eager), trace them (staged) or ask types (abstract).

Interpreters know op records, never single ops, so this package stands above `ops`.
"""
