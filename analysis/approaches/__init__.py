"""The three approaches of arXiv 2203.15556 side by side: envelope (1), isoFLOP minima (2), fitted surface (3)."""
