"""The passes: everything that walks or rewrites a graph, one pass in each file, named by its verb."""
