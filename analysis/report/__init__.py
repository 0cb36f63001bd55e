"""The page and the terminal: verdicts, pictures, tables."""
