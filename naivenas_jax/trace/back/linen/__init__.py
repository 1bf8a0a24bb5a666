"""The way back for linen modules: the module whose fields give the new sizes."""
