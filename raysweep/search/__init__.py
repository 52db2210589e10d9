"""Search spaces, samplers, schedulers, fidelity."""
