"""Starter models: small text-to-image pipelines trained from scratch on rendered shapes."""
