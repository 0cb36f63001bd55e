"""How sure: resampling, sandwich, profiles, derived quantities, prediction bands."""
