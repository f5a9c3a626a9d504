"""What every layer may use: errors, configuration, paths, the run directory, mesh and display."""
