"""Placeholder until the verifier lands."""


def verify(graph, stage="graph"):
    return graph
