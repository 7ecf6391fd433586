"""Replace the stand-in model beside this script by the true t5-small (about 245 MB from huggingface.co).

    python fetch_t5_small.py

All files are downloaded before the stand-in is touched. A download that was interrupted continues where it
stopped. `python make_stand_in.py` brings the stand-in back after `rm -r t5-small`.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from huggingface_hub import hf_hub_download, model_info
from huggingface_hub.errors import HfHubHTTPError

REPOSITORY = "google-t5/t5-small"
# A fixed revision: what runs today is what ran when the tutorial was checked.
REVISION = "df1b051c49625cf57a3d0d8d3863ed4d13564fe4"
HUB_ANSWERS_WITHIN = 10.0
FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
)


def main() -> int:
    folder = Path(__file__).with_name("t5-small")
    try:
        # Asked first and once: an unreachable hub is reported in seconds, not after a download's retries.
        model_info(REPOSITORY, revision=REVISION, timeout=HUB_ANSWERS_WITHIN)
        downloaded = [Path(hf_hub_download(REPOSITORY, name, revision=REVISION)) for name in FILES]
    except (HfHubHTTPError, OSError) as error:
        print(
            f"{REPOSITORY} could not be downloaded: {error}\n"
            f"{folder} is as it was, and the tutorial runs with it. For the true model, check that this "
            "machine reaches https://huggingface.co (HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy), then "
            "run this again.",
            file=sys.stderr,
        )
        return 1

    with tempfile.TemporaryDirectory(prefix=".t5-small-", dir=folder.parent) as temporary:
        complete = Path(temporary, "t5-small")
        complete.mkdir()
        for file in downloaded:
            # A copy, not a link into the cache: clearing the cache must not break the examples.
            shutil.copyfile(file, complete / file.name)
        if folder.exists():
            shutil.rmtree(folder)
        complete.rename(folder)
    print(f"{folder} is the true t5-small now.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
