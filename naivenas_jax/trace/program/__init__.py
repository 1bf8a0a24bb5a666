"""A function as a jaxpr: what its equations tie, and how they are bound again at other sizes."""
