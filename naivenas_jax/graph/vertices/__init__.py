"""The kinds of vertices that are no layers: arithmetic, stacks, functions, custom operations, subgraphs."""
