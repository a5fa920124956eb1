"""Numerics that every room uses: predictions, noise, sums and the stop rule."""
