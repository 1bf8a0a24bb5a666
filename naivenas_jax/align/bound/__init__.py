"""Upper bounds of the utility within budgets that need no solver: prices, forests of products, tangents of the rest."""
