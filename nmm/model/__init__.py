"""Trunk, masks, experts, vision and fusion: from a Batch to per-token losses."""
