"""Test a front's models on images that no search has seen, and export models."""
