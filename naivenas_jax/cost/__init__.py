"""What a network costs: parameters, bytes and operations as sums of products of sizes, and measured latency."""
