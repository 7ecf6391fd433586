"""The request path: channel, router, HTTP proxy, replica, user code. Knows the control plane only as snapshots."""
