"""The arithmetic of sizes: ranges of neurons, what ties them together, and conditions on sizes as plain data."""
