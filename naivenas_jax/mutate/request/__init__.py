"""What a user may ask of a verb, read and checked: sizes, conditions, budgets, options."""
