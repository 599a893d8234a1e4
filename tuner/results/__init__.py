"""What has happened in a search: its history, and the fronts and results computed from it."""
