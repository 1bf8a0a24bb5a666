"""Least squares: the weights that make up best for dropped neurons."""
