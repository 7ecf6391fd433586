"""The end of ``scripts/quickstart``: start the tutorial's application, translate a sentence over HTTP, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

TUTORIAL = Path(__file__).resolve().parent.parent / "examples" / "tutorial"
SALVER = Path(sys.executable).parent / "salver"
RUN = ["run", "serve_quickstart:translator_app"]
SENTENCE = "Hello world!"
WHAT_NEXT = """\
The model is a stand-in of 0.8 MB that knows a phrase book; examples/tutorial/README.md says how to get
the real t5-small. Try next:

    . .venv/bin/activate
    cd examples/tutorial
    salver run serve_quickstart_composed:app      # two models, one calls the other
    python composed_client.py                     # in another terminal
"""


def main() -> int:
    """Exit code: that of ``salver run`` when it fails, 1 when the answer is not a translation."""
    print(f"\n$ cd examples/tutorial\n$ salver {' '.join(RUN)}", flush=True)
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}
    run = [SALVER, *RUN, "--port", "0", "--non-blocking"]
    pipe = subprocess.PIPE
    started = subprocess.run(run, cwd=TUTORIAL, env=environment, stderr=pipe, text=True, check=False)
    print(started.stderr, flush=True)
    if started.returncode:
        return started.returncode
    ready = next(line for line in started.stderr.splitlines() if line.startswith("Ready in"))
    url = ready.split(" · ")[1]
    port = url.rstrip("/").rsplit(":", 1)[1]
    try:
        answer = translate(url)
    finally:
        subprocess.run([SALVER, "shutdown", "--instance", port], check=False, stderr=subprocess.DEVNULL)
    print(f"POST {url} {json.dumps(SENTENCE)}\n\n    {SENTENCE}  ->  {answer}\n")
    print(WHAT_NEXT)
    return 0 if answer and answer != SENTENCE else 1


def translate(url: str) -> str:
    body = json.dumps(SENTENCE).encode()
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()


if __name__ == "__main__":
    sys.exit(main())
