"""HOW it is measured: one harness for every stage and every device."""
