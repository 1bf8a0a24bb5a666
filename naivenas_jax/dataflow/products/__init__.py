"""Products that are contracted over neurons and made by weights alone: queries and keys, values and what reads them."""
