"""Many networks of one structure and different widths, as one program."""
