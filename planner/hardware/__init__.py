"""GPUs and clusters: profiles, the library of them, and the GPUs in this machine."""
