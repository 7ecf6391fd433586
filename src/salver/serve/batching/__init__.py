"""``@serve.batch``: many calls, one execution."""

from salver.serve.batching.decorator import batch

__all__ = ["batch"]
