"""What to do: allocate a budget, compare groups, choose the next runs."""
