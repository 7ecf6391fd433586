"""An instance of the test process's own that many tests use, one after the other."""

from __future__ import annotations

from typing import Self

from salver import serve

WITHIN_S = 30.0


@serve.deployment
def nothing() -> None:
    """What is run first, so that all that belongs to the instance is there before any test looks."""


class WarmInstance:
    """Runs while its ``with`` block does.

    Attributes:
        url: of its HTTP ingress.
    """

    url: str

    def __enter__(self) -> Self:
        serve.start(http_options={"port": 0})
        self.url = serve.status().instance.url
        try:
            serve.run(nothing.bind()).remote().result(timeout_s=WITHIN_S)
            self.empty()
        except BaseException:
            serve.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        serve.shutdown()

    def empty(self) -> None:
        """Delete every application. Raises AssertionError when the test has put another instance in its place."""
        status = serve.status()
        assert status.instance.url == self.url, "the test has ended the instance: it needs one of its own"
        for name in status.applications:
            serve.delete(name)
