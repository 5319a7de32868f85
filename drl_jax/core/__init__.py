"""The paper: noise levels, energies, Markov chains, the objective and synthesis. Knows arrays alone."""
