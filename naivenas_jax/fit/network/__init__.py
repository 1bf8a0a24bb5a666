"""A network as a list of equations that is evaluated on data, with an eye on where its variables are used."""
