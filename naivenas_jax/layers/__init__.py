"""What each Flax layer ties, as data: rules, and the registry in which they are found."""
