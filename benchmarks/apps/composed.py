"""One call through a handle, and nothing else: proxy -> ingress -> child, each a process of its own.

salver run composed:app --app-dir benchmarks/apps
"""

from salver import serve
from salver.serve.handle import DeploymentHandle


@serve.deployment
class Child:
    async def answer(self) -> str:
        return "hello"


@serve.deployment
class Ingress:
    def __init__(self, child: DeploymentHandle[str]) -> None:
        self.child = child

    async def __call__(self) -> str:
        return await self.child.answer.remote()


app = Ingress.bind(Child.bind())
