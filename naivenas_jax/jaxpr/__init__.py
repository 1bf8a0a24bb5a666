"""Walkers of jaxprs: which equations are calls, how they are opened, evaluated and bound again."""
