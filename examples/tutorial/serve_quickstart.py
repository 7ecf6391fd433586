"""The translator of model.py as an application: `salver run serve_quickstart:translator_app`."""

from starlette.requests import Request
from transformers import pipeline

from salver import serve


# Two processes share the requests. Each reserves a fifth of a CPU core: an amount for placing
# replicas on the machine, not a limit on what the model may use.
@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.2, "num_gpus": 0})
class Translator:
    def __init__(self):
        # Runs in each replica; a replica takes no request before it returns.
        self.model = pipeline("translation_en_to_fr", model="t5-small")

    def translate(self, text: str) -> str:
        model_output = self.model(text)
        translation = model_output[0]["translation_text"]

        return translation

    # HTTP requests come here; what it returns is the body of the answer.
    async def __call__(self, http_request: Request) -> str:
        english_text: str = await http_request.json()
        return self.translate(english_text)


# bind() runs nothing: it records the constructor's arguments (none here) for the replicas to use.
translator_app = Translator.bind()
