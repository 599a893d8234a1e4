"""The live page: what a search has reached, runs and will cost, renewed as it goes on, from its files alone."""
