"""What a trial learned, as it travels."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from raysweep.engine.fitted import Fitted, Learned

STATE = {
    "weights": torch.arange(12, dtype=torch.float32).reshape(3, 4).t(),
    "half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "seen": torch.tensor([True, False]),
    "none": torch.empty((0, 3)),
}


def test_tensors_come_out_as_they_went_in() -> None:
    learned = Learned(STATE)
    assert list(learned) == list(STATE)
    assert learned.nbytes == 12 * 4 + 2 * 2 + 8 + 2
    for name, tensor in STATE.items():
        assert learned[name].dtype == tensor.dtype
        assert torch.equal(learned[name], tensor)
    assert learned.without("half", "none").keys() == {"weights", "count", "seen"}


def test_bytes_stay_out_of_the_stream_and_what_is_taken_may_be_changed() -> None:
    big = {"weights": torch.ones(100_000)}
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(Fitted(Learned(big), {}, {}), protocol=5, buffer_callback=buffers.append)
    assert len(stream) < 2_000
    # As shared memory hands them out: read only.
    back = pickle.loads(stream, buffers=[bytes(buffer) for buffer in buffers])  # noqa: S301 - our own bytes
    taken = back.state["weights"]
    taken += 1
    assert float(back.state["weights"].sum()) == 100_000
    assert np.array_equal(taken.numpy(), np.full(100_000, 2.0))
