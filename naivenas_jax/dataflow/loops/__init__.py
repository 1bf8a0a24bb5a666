"""What happens in one round of a loop: its weights, what they are contracted with, and which products are added up."""
