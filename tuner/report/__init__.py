"""What people see: tables, figures, files."""
