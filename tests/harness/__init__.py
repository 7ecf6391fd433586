"""What end-to-end tests share: instances in subprocesses, load, waiting, and the check that nothing is left."""
