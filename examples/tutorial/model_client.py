"""Asks the running serve_quickstart:translator_app for one translation."""

import requests

english_text = "Hello world!"

response = requests.post("http://127.0.0.1:8000/", json=english_text)
french_text = response.text

print(french_text)
