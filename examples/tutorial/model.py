"""The model alone, before any serving: run it to see one translation."""

from transformers import pipeline


class Translator:
    def __init__(self):
        # Slow (seconds, and a download when the model is not here), so it happens once, not per call.
        self.model = pipeline("translation_en_to_fr", model="t5-small")

    def translate(self, text: str) -> str:
        # The pipeline accepts many texts at once, so even one answer arrives as a list.
        model_output = self.model(text)
        translation = model_output[0]["translation_text"]

        return translation


translator = Translator()

translation = translator.translate("Hello world!")
print(translation)
