"""The search for the best whole numbers: steps of the solver, and branch and bound where there are budgets."""
