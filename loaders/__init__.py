"""What one host can do: keep many models warm, swap their weights, run them. Imports only `registry`'s pure modules."""
