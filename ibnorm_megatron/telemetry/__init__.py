"""What a run's telemetry shows: its last values as a table, its course as heatmaps. Reads run folders and nothing else."""
