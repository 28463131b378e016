"""Measure how much an encoder leans on the background."""
