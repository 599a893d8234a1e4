"""What to try next, without Ray: ask and tell, samplers, several methods in one budget."""
