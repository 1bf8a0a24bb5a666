"""Alignment: which neurons of which axes stay and how many are new, as an integer program; the `Plan` says it."""
