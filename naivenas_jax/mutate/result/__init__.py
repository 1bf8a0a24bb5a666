"""What comes back: the mutation, its report, and the check against the original."""
