"""Changes that are spread over a training."""
