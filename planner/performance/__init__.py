"""How long things take: kernels, collectives, a step, a run."""
