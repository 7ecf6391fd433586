"""Large arrays in local testing mode: shared, read-only, and nothing of them left, as with real replicas."""

from __future__ import annotations

import numpy as np

from e2e.test_large_payloads import SIZE, WITHIN_S, Store, shared_memory_of
from harness.waiting import eventually
from salver import serve


def test_arguments_results_and_items() -> None:
    store = serve.run(Store.bind(), _local_testing_mode=True)
    array = np.arange(SIZE, dtype=np.uint8)
    assert store.total.remote(array).result(timeout_s=WITHIN_S) == (int(array.sum()), False)
    result = store.same.remote(array).result(timeout_s=WITHIN_S)
    assert np.array_equal(result, array)
    items = store.options(method_name="stream", stream=True).remote(10)
    assert [int(item[0]) for item in items] == list(range(10))
    del result, items
    eventually("everything is let go", lambda: shared_memory_of("self") == (0, 0), WITHIN_S)
    serve.shutdown()
