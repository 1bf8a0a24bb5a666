"""Which networks of a search came from which: entries, their history, and how it is written and drawn."""
