"""The engine for one machine: a supervisor process that forks everything else."""
