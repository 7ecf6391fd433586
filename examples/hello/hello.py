"""The smallest application: one function, answering in JSON. `salver run hello:app`."""

from starlette.requests import Request

from salver import serve


@serve.deployment
async def hello(request: Request) -> dict[str, str]:
    name = request.query_params.get("name", "world")
    return {"greeting": f"Hello {name}!"}


app = hello.bind()
