"""From a wish to a new network: edits of the graph, their widths brought in line, new variables."""
