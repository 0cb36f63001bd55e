"""Sweeps drawn from known laws, published surfaces, statistical power."""
