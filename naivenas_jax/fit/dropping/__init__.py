"""What dropping a neuron costs: estimated to second order, and measured group by group."""
