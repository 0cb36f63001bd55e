"""`nmm sweep next`: from what finished runs tell, by files only, to the runs that would tell most for a budget."""
