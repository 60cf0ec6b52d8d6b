"""Diffusers pipelines, built once per architecture and bound to whichever weights are wanted."""
