"""Training: the optimizer, the step, the guard against divergence, and the loop."""
