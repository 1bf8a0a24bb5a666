"""What an edit would make of a graph, and why it may not: no variables are needed for that."""
