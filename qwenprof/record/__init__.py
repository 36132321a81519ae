"""What was measured: plain data on disk."""
