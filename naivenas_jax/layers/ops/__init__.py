"""The operations of vertices that hold a Flax layer."""
