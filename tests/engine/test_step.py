"""One training step: reproducible, on the hidden entries only, and safe when it goes wrong."""

import numpy as np
import pytest
import torch
from builders import (
    NO_DROPOUT,
    assert_generators_untouched,
    build_network,
    changed,
    same_tensors,
    snapshot,
    spike_data,
    tiny_settings,
    with_spikes,
)

from ndt_cli.engine.batches import Streams, TrialSet
from ndt_cli.engine.checkpoint import optimizer_tensors
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.optimizer import make_optimizer
from ndt_cli.engine.step import StepParts, TrainingStep
from ndt_cli.model.network import PlainMath

CPU = torch.device("cpu")


class _Bench:
    """A network with its optimizer, streams, step and one batch."""

    def __init__(self, settings=None, data=None, *, seed=0, weights=0, device=CPU, fused=True):
        self.settings = settings or tiny_settings()
        data = data or spike_data(8)
        self.batch = TrialSet.load(data, device)
        shape = (data.n_neurons, data.n_bins, data.max_count)
        self.network = build_network(self.settings.model, *shape, seed=weights).to(device)
        self.optimizer = make_optimizer(self.network, self.settings, device)
        if not fused:  # as on a device without a fused kernel, such as Apple's MPS
            kind = type(self.optimizer)
            self.optimizer = kind(self.optimizer.param_groups, lr=1e-3, fused=False)
        self.streams = Streams.from_seed(seed, device)
        self.step = TrainingStep(
            StepParts(self.network, self.optimizer, self.settings, self.streams, Ranks())
        )

    def losses(self, n_steps, epoch=0):
        return [
            total.item() / n_scored.item()
            for total, n_scored in (self.step(self.batch, epoch) for _ in range(n_steps))
        ]

    def gradient(self):
        return torch.cat([p.grad.flatten() for p in self.network.parameters()])

    def state(self):
        return {
            **snapshot(self.network),
            **{
                name: tensor.clone()
                for name, tensor in optimizer_tensors(self.optimizer, self.network).items()
            },
        }


def test_one_seed_gives_the_same_losses_and_weights_bit_for_bit():
    first, again = _Bench(), _Bench()
    assert first.losses(5) == again.losses(5)
    assert same_tensors(first.state(), again.state())


def test_another_seed_draws_other_masks_and_other_dropout():
    assert _Bench(seed=0).losses(2) != _Bench(seed=1).losses(2)
    still = tiny_settings(model=NO_DROPOUT, mask={"ratio": 1.0})  # nothing is drawn
    assert _Bench(still, seed=0).losses(2) == _Bench(still, seed=1).losses(2)
    only_dropout = tiny_settings(mask={"ratio": 1.0})
    assert _Bench(only_dropout, seed=0).losses(2) != _Bench(only_dropout, seed=1).losses(2)


def test_masks_do_not_depend_on_dropout():
    n_scored = []
    for p in (0.0, 0.5):
        bench = _Bench(tiny_settings(model=dict.fromkeys(NO_DROPOUT, p)))
        n_scored.append([bench.step(bench.batch, 0)[1].item() for _ in range(10)])
    assert n_scored[0] == n_scored[1]
    assert len(set(n_scored[0])) > 1


def test_the_global_generator_is_neither_used_nor_changed():
    with assert_generators_untouched():
        first = _Bench().losses(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert _Bench().losses(2) == first


def test_steps_lower_the_loss():
    bench = _Bench(tiny_settings(train={"learning_rate": 0.01}))
    losses = bench.losses(120)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.05


def test_the_loss_is_the_mean_over_hidden_entries_and_nothing_else():
    settings = tiny_settings(model=NO_DROPOUT, mask={"ratio": 1.0})
    bench = _Bench(settings)
    counts = bench.batch.counts_BTN
    twin = build_network(settings.model, 3, 6, int(counts.max()))
    output = twin(torch.zeros_like(counts))  # all is hidden
    expected = (output.exp() - counts * output).mean()
    expected.backward()
    total, n_scored = bench.step(bench.batch, 0)
    assert n_scored == counts.numel()
    assert total.item() / n_scored.item() == pytest.approx(expected.item(), rel=1e-5)
    gradient = torch.cat([p.grad.flatten() for p in twin.parameters()])
    torch.testing.assert_close(bench.gradient(), gradient)


def _hiding_nothing():
    """Settings that mask no entry: no user may ask for them, but a small batch can come out so."""
    settings = tiny_settings()
    mask = settings.mask.model_copy(update={"ratio": 1e-9})
    return settings.model_copy(update={"mask": mask})


def test_held_out_neurons_and_forward_bins_are_trained_on_and_padding_is_not():
    data = spike_data(8, n_heldout=1, n_forward=2, lengths_B=[6, 6, 6, 6, 5, 3, 1, 0])
    _, n_scored = _Bench(_hiding_nothing(), data).step(TrialSet.load(data, CPU), 0)
    # Of 33 bins inside a trial 9 are past the window: all three neurons there, one elsewhere.
    inside = int(np.sum(data.lengths_B))
    forward = int(data.inside_BT[:, 4:].sum())
    assert (inside, forward) == (33, 9)
    assert n_scored == (inside - forward) * 1 + forward * 3


def test_a_batch_that_hides_nothing_changes_nothing_but_decay():
    bench = _Bench(_hiding_nothing())
    before = snapshot(bench.network)
    total, n_scored = bench.step(bench.batch, 0)
    assert (total.item(), n_scored.item()) == (0.0, 0.0)
    assert bench.step.first_bad_step() is None
    assert same_tensors(snapshot(bench.network), before)


def test_topk_trains_on_the_worst_entries_only():
    settings = tiny_settings(model=NO_DROPOUT, mask={"ratio": 1.0})
    all_of_them = _Bench(settings)
    worst = _Bench(changed(settings, "train", topk_fraction=0.25))
    counts = worst.batch.counts_BTN
    output = worst.network(torch.zeros_like(counts)).detach()
    losses = (output.exp() - counts * output).flatten().sort(descending=True).values
    n_kept = -(-counts.numel() // 4)
    total, n_scored = worst.step(worst.batch, 0)
    assert n_scored == n_kept
    assert total.item() == pytest.approx(losses[:n_kept].sum().item(), rel=1e-5)
    all_of_them.step(all_of_them.batch, 0)
    assert not torch.allclose(worst.gradient(), all_of_them.gradient())


def test_gradients_are_clipped_to_the_norm_and_left_alone_below_it():
    free = _Bench(tiny_settings(train={"clip_norm": 1e6}))
    clipped = _Bench(tiny_settings(train={"clip_norm": 0.01}))
    for bench in (free, clipped):
        bench.step(bench.batch, 0)
    assert free.gradient().norm() > 0.1
    assert clipped.gradient().norm().item() == pytest.approx(0.01, rel=1e-3)
    direction = torch.cosine_similarity(free.gradient(), clipped.gradient(), dim=0)
    assert direction.item() == pytest.approx(1.0, abs=1e-5)


def test_weight_decay_acts():
    kept, decayed = (
        _Bench(tiny_settings(train={"weight_decay": decay, "learning_rate": 0.01}))
        for decay in (0.0, 1.0)
    )
    for bench in (kept, decayed):
        bench.losses(3)
    norms = [sum(p.square().sum() for p in bench.network.parameters()) for bench in (kept, decayed)]
    assert norms[1] < norms[0]


def test_spans_follow_the_epoch():
    ramp = {"span_ramp_start_epoch": 5, "span_ramp_end_epoch": 5}
    spans = tiny_settings(mask={"ratio": 0.3, "max_span": 4, **ramp})
    assert _Bench(spans).losses(3, epoch=4) != _Bench(spans).losses(3, epoch=5)
    assert _Bench(spans).losses(3, epoch=5) == _Bench(spans).losses(3, epoch=6)


def test_ndt1_fault_search_settings_changed_between_steps_apply():
    bench = _Bench(data=spike_data(200))
    shares = []
    for ratio in (0.1, 0.8):
        bench.step.settings = changed(bench.settings, "mask", ratio=ratio)
        shares.append(bench.step(bench.batch, 0)[1].item() / bench.batch.counts_BTN.numel())
    assert shares == pytest.approx([0.1, 0.8], abs=0.06)


def _poison(bench, how):
    """Make the loss infinite, or only the gradient NaN."""
    with torch.no_grad():
        bias = bench.network.readout.last.bias
        if how == "loss":
            bias.fill_(200.0)  # exp overflows
        else:
            bias.fill_(60.0)  # exp(60) is finite, the square of its gradient is not


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("n_good", [0, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_optimizer(
    how, fused, n_good, optimizer
):
    train = {"weight_decay": 0.1, "optimizer": optimizer}
    settings = tiny_settings(model=NO_DROPOUT, train=train)
    bench = _Bench(settings, fused=fused)
    bench.losses(n_good)
    assert bench.step.first_bad_step() is None
    _poison(bench, how)
    before = bench.state()
    total, _ = bench.step(bench.batch, 0)
    assert total.isfinite() == (how == "gradient")
    after = bench.state()
    for name, tensor in after.items():
        # A first step makes the optimizer's state; it must be that of no step taken.
        assert torch.equal(tensor, before.get(name, torch.zeros_like(tensor))), name
    assert bench.step.first_bad_step() == n_good


def test_the_first_bad_step_is_the_one_that_is_remembered():
    bench = _Bench(tiny_settings(model=NO_DROPOUT))
    bench.losses(1)
    bias = bench.network.readout.last.bias.detach()
    good = bias.clone()
    _poison(bench, "loss")
    bench.losses(2)
    bias.copy_(good)
    assert np.isfinite(bench.losses(2)).all()
    assert bench.step.first_bad_step() == 1


def test_an_overflow_outside_the_scored_entries_does_not_stop_a_step():
    # A rate overflows in padding, where nothing is scored.
    lengths_B = [6, 6, 6, 3]
    data = spike_data(4, n_neurons=1, lengths_B=lengths_B)
    settings = tiny_settings(model={**NO_DROPOUT, "positions": "learned", "norm_place": "pre"})
    settings = changed(settings, "mask", ratio=1.0)
    bench = _Bench(settings, with_spikes(data, data.spikes_BTN))
    hook = bench.network.readout.register_forward_hook(
        lambda module, args, output: output + 200.0 * (~bench.batch.inside_BT)[:, :, None]
    )
    total, _ = bench.step(bench.batch, 0)
    hook.remove()
    assert total.isfinite()
    assert bench.step.first_bad_step() is None


@pytest.mark.parametrize("loss", [{}, {"log_rates": False}, {"loss": "cross-entropy"}])
@pytest.mark.parametrize("mode", ["timestep", "full", "neuron", "timestep-only"])
def test_every_loss_trains_in_every_mask_mode(loss, mode):
    mask = {"mode": mode, "token_ratio": 0.5, "zero_token": False}
    if mode != "neuron":
        mask["max_span"] = 3
    data = spike_data(8, n_heldout=1, n_forward=2, lengths_B=[6] * 6 + [5, 3])
    bench = _Bench(tiny_settings(model=loss, mask=mask), data)
    before = snapshot(bench.network)
    assert np.isfinite(bench.losses(3)).all()
    assert bench.step.first_bad_step() is None
    assert not same_tensors(snapshot(bench.network), before)


def test_counts_above_255_train():
    data = spike_data(8, mean_count=1.0)
    large = data.spikes_BTN.astype(np.uint16) * 300
    settings = tiny_settings(mask={"zero_token": False, "token_ratio": 0.5, "random_ratio": 1.0})
    bench = _Bench(settings, with_spikes(data, large))
    assert bench.batch.counts_BTN.max() == large.max()
    assert np.isfinite(bench.losses(2)).all()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch calls it a prototype
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("topk_fraction", [1.0, 0.5])
def test_a_step_never_makes_the_host_wait_for_the_gpu(precision, topk_fraction):
    device = torch.device("cuda")
    settings = tiny_settings(
        mask={"token_ratio": 0.5, "max_span": 3, "mode": "full"},
        train={"topk_fraction": topk_fraction},
    )
    data = spike_data(32, 40, 10, lengths_B=[40] * 30 + [10, 20])
    bench = _Bench(settings, data, device=device)
    bench.network.math = PlainMath(getattr(torch, precision))
    order = torch.randperm(32, generator=bench.streams.order, device=device)
    for _ in range(3):  # libraries may wait while they set themselves up
        bench.step(bench.batch.take(order[:16]), 0)
    torch.cuda.synchronize()
    sums = torch.zeros(2, device=device)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in order.split(16):
            sums += torch.stack(bench.step(bench.batch.take(batch), 3))
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert bench.step.first_bad_step() is None
    assert sums.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_on_a_gpu(how):
    bench = _Bench(tiny_settings(model=NO_DROPOUT), device=torch.device("cuda"))
    bench.losses(2)
    _poison(bench, how)
    before = bench.state()
    bench.step(bench.batch, 0)
    assert same_tensors(bench.state(), before)
    assert bench.step.first_bad_step() == 2
