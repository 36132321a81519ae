"""WHY it is slow. Reads records only; never imports torch."""
