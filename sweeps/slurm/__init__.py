"""The SLURM launcher: what is missing goes into job arrays, and launching again adds what is missing then."""
