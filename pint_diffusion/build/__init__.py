"""From settings or objects to what a rank needs to take part in a run."""
