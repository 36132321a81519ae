"""How it is told. Reads records and findings only; never imports torch."""
