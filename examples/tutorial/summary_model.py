"""The second model alone: run it to see one summary."""

from transformers import pipeline


class Summarizer:
    def __init__(self):
        self.model = pipeline("summarization", model="t5-small")

    def summarize(self, text: str) -> str:
        # Both limits count tokens, not characters.
        model_output = self.model(text, min_length=5, max_length=15)
        summary = model_output[0]["summary_text"]

        return summary


summarizer = Summarizer()

summary = summarizer.summarize(
    "It was the best of times, it was the worst of times, it was the age "
    "of wisdom, it was the age of foolishness, it was the epoch of belief"
)
print(summary)
