"""From measured kernels to constants: the fits behind hardware/data/kernels, and a user's own."""
