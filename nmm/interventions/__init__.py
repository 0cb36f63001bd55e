"""What a recipe does: one small module, or a few, for each method. The studies that measure it are in ``sweeps``."""
