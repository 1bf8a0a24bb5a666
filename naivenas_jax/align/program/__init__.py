"""The problem as a program that a solver reads: linear rows, concave utility, McCormick envelopes of products."""
