"""A plan applied to arrays: parameters, masks, undo, and the state of an optimizer."""
