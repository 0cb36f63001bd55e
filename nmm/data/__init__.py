"""From a world or a folder of tars to batches."""
