"""Models that several families run, each with the same weights and the same arithmetic for every peer."""
