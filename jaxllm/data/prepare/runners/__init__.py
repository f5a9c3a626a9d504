"""Where the tasks of a preparation run: on this machine, or on a cluster through Apache Beam."""
