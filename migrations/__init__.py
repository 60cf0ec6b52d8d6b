"""Alembic's environment and the one linear chain of schema steps."""
