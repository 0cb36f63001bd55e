"""The training of one run: module, optimiser, schedule, checkpoints, run."""
