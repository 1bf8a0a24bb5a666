"""A network as a flat list of equations: where its variables are used, and its evaluation from any equation on."""
