"""What happened: the history of a search, and the fronts built from it."""
