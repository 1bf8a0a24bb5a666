"""Re-fitting on data: batch statistics, biases and weights that take over what dropped neurons did."""
