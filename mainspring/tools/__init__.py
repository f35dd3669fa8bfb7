"""The command line and what it prints: with this you can train and generate from a shell, draw a graph, write a report."""
