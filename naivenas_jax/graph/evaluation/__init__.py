"""Evaluation of a graph: initialisation, application, name scopes, batches."""
