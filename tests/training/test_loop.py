"""Decisions of the training loop that all processes must take alike."""

from etils import epath

from drl_jax.training import loop


def test_process_0_alone_knows_the_best_checkpoint(monkeypatch):
    # It rewrites metrics.jsonl while the others start: they must not read it for themselves.
    monkeypatch.setattr(
        loop.metrics_log, "read", lambda _: [{"step": 4, "kid": 2.0}, {"step": 8, "kid": 1.0}]
    )
    assert loop._Best(epath.Path("run"), "kid").step == 8
    sent = []
    monkeypatch.setattr(loop.jax, "process_index", lambda: 1)
    monkeypatch.setattr(loop, "broadcast", lambda value: sent.append(value) or [1.0, 8])
    best = loop._Best(epath.Path("run"), "kid")
    assert sent == [(float("inf"), None)]  # nothing was read here
    assert best.step == 8
    assert best.update(12, {"kid": 3.0}) == 8
    assert best.update(16, {"kid": 0.5}) == 16
