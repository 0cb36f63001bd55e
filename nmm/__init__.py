"""NMM: one run of a native multimodal model, from shards to a record."""

__version__ = "0.1.0"
