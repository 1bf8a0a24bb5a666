"""Products that weights make: what of them is kept when fewer neurons are contracted."""
