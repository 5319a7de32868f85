"""Markov chains as pure kernels: `new_state, info = step(keys, state)`."""
