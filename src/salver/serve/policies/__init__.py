"""Users' autoscaling policies, in the process that runs them."""
