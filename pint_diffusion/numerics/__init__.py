"""Numbers that every room uses: predictions, noise, sums, when something has converged."""
