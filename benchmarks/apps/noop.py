"""The least an application can do: everything that a request costs here is Salver's own.

salver run noop:app --app-dir benchmarks/apps
salver run noop:build replicas=4 --app-dir benchmarks/apps
"""

from salver import serve
from salver.serve.deployment import Application


@serve.deployment
class Noop:
    async def __call__(self) -> str:
        return "hello"


def build(arguments: dict[str, str]) -> Application:
    """The same with `replicas=N` processes."""
    return Noop.options(num_replicas=int(arguments["replicas"])).bind()


app = Noop.bind()
