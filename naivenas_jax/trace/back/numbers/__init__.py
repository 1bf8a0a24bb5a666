"""The numbers that a model is configured with, and what they may become where sizes changed."""
