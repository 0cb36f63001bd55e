"""The laws, one file a family; ``catalogue.law_named`` finds one by its name."""
