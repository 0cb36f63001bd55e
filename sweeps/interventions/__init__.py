"""Studies of interventions: what a recipe is worth, each from one command to one page (``nmm intervention METHOD``)."""
