"""An imported model as a vertex of a graph."""
