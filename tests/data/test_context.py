"""Request ids: random, unique, and never the same in two processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid

import pytest

from salver.data.context import accept_request_id, new_request_id


def test_they_are_random_uuids() -> None:
    made = [new_request_id() for _ in range(2000)]
    assert len(set(made)) == 2000
    for text in made:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


def test_threads_get_different_ones() -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend([new_request_id() for _ in range(2000)])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000


def test_a_forked_process_gets_others() -> None:
    script = (
        "import os\nfrom salver.data.context import new_request_id\nnew_request_id()\n"
        "child = os.fork()\nos.write(1, new_request_id().encode() + b' ')\nif child: os.waitpid(child, 0)\n"
    )
    ids = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(ids)) == 2


@pytest.mark.parametrize("offered", [b"a", b"x" * 128, b"!~", b"0-1_2"])
def test_a_clients_own_is_taken(offered: bytes) -> None:
    assert accept_request_id(offered) == offered.decode()


@pytest.mark.parametrize("offered", [b"", b"x" * 129, b"a b", b"\x7f", b"caf\xe9", b"a\t"])
def test_anything_else_gets_a_new_one(offered: bytes) -> None:
    assert len(accept_request_id(offered)) == 36
