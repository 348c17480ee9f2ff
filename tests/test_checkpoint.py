import os
import signal
import threading

import pytest
import torch

from deepspectrumlite.checkpoint import (
    held_back,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from deepspectrumlite.errors import TrainingError

CPU = torch.device("cpu")


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "checkpoint.pt"
    assert load_checkpoint(path, CPU) is None
    state = {
        "state": {
            "epoch": 3,
            "losses": [0.5, float("inf")],
            "history": [{"best": True, "x": None}],
        },
        "best": {"value": float("-inf"), "state": {"w": torch.tensor([1e-45, torch.inf, -0.0])}},
    }
    save_checkpoint(path, state)
    found = load_checkpoint(path, CPU)
    assert found["state"] == state["state"]
    assert found["best"]["value"] == float("-inf")
    bits = [part["best"]["state"]["w"].view(torch.int32).tolist() for part in (found, state)]
    assert bits[0] == bits[1]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state": Bomb()}, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: broken \(.+\); remove it"):
        load_checkpoint(tmp_path / "checkpoint.pt", CPU)
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_is_complete_or_not_there(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"state": 1})

    def half(file):
        file.write(b"half a chec")
        file.flush()
        # What a kill leaves at this moment: the old one, and a part beside it.
        assert torch.load(path, weights_only=True) == {"state": 1}
        assert (tmp_path / "checkpoint.pt.new").read_bytes() == b"half a chec"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
    (tmp_path / "checkpoint.pt.new").write_bytes(b"left behind by a kill" * 1000)
    save_checkpoint(path, {"state": 2})
    assert torch.load(path, weights_only=True) == {"state": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(TrainingError, match=r"\(No such file or directory\); there is none before"):
        save_checkpoint(tmp_path / "absent" / "checkpoint.pt", {})


def test_signals_are_held_back_once_and_given_back():
    caught = []
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        with held_back() as signals:
            assert not signals.stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.stop
            assert caught == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert caught == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught == [signal.SIGTERM] * 2
        with pytest.raises(ValueError, match="inside"), held_back():
            raise ValueError("inside")
        assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_other_threads_have_no_signals():
    found = []

    def train():
        with held_back() as signals:
            found.append(signals.stop)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGINT) == before
