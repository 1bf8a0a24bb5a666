"""The parameters of neurons that are new."""
