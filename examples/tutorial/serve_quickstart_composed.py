"""Two models in one application: `salver run serve_quickstart_composed:app`.

Summarizer receives the HTTP request, shortens the text, and asks Translator for the French.
"""

from starlette.requests import Request
from transformers import pipeline

from salver import serve
from salver.serve.handle import DeploymentHandle


# No __call__: this deployment is reached through a handle only, never over HTTP.
@serve.deployment
class Translator:
    def __init__(self):
        self.model = pipeline("translation_en_to_fr", model="t5-small")

    def translate(self, text: str) -> str:
        model_output = self.model(text)
        translation = model_output[0]["translation_text"]

        return translation


@serve.deployment
class Summarizer:
    # Bound below to Translator.bind(); what arrives in the replica is a handle to that deployment.
    def __init__(self, translator: DeploymentHandle):
        self.translator = translator

        self.model = pipeline("summarization", model="t5-small")

    def summarize(self, text: str) -> str:
        model_output = self.model(text, min_length=5, max_length=15)
        summary = model_output[0]["summary_text"]

        return summary

    async def __call__(self, http_request: Request) -> str:
        english_text: str = await http_request.json()
        summary = self.summarize(english_text)

        # remote() returns at once with a response to await; the call itself runs in Translator's replica.
        translation = await self.translator.translate.remote(summary)
        return translation


# The deployment bound last is the ingress: the one that HTTP requests reach.
app = Summarizer.bind(Translator.bind())
