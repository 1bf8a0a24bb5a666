"""Scores: for each criterion, a number for each neuron."""
