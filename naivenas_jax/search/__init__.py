"""A kit for searches: pure functions that a person's own loop calls."""
