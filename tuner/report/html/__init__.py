"""The interactive HTML pages."""
