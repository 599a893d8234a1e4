"""What to try next, without Ray: ask and tell, samplers, successive halving."""
