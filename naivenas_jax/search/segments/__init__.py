"""Parts of a network with one way in and one way out, exchanged between two networks."""
