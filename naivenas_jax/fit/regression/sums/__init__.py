"""Rows of a weight on both networks, as they come batch by batch, and the least squares problem that they make."""
