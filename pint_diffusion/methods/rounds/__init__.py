"""Methods that evaluate a window of points at once, round after round."""
