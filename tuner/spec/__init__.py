"""What is asked for: the search's spec, its space, objectives and epochs."""
