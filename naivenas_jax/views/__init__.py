"""How a value is shown, whatever it is: the parts of a view, and their renderings for notebooks and terminals."""
