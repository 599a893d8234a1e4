"""The front on images that no search has seen, and models to take away."""
