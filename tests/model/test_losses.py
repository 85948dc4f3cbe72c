"""Losses against independent formulas, and that entries outside the mask have no say."""

import pytest
import torch
from builders import build_network, counts_BTN, model_settings

from ndt_cli.model.losses import cross_entropy_BTN, keep_worst, masked_sum, poisson_loss_BTN

SHAPE = (3, 5, 4)


def _random(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_poisson_loss_of_log_rates_is_that_of_torch():
    log_rates, counts = _random(), counts_BTN(*SHAPE)
    expected = torch.nn.PoissonNLLLoss(log_input=True, full=False, reduction="none")
    torch.testing.assert_close(
        poisson_loss_BTN(log_rates, counts, log_rates=True), expected(log_rates, counts.float())
    )


def test_poisson_loss_of_rates_is_that_of_torch():
    rates, counts = _random().abs(), counts_BTN(*SHAPE)
    expected = torch.nn.PoissonNLLLoss(log_input=False, full=False, eps=1e-8, reduction="none")
    torch.testing.assert_close(
        poisson_loss_BTN(rates, counts, log_rates=False), expected(rates, counts.float())
    )


def test_both_forms_agree_and_differ_from_the_likelihood_by_log_factorial_only():
    log_rates, counts = _random().double(), counts_BTN(*SHAPE).double()
    loss = poisson_loss_BTN(log_rates, counts, log_rates=True)
    torch.testing.assert_close(
        loss, poisson_loss_BTN(log_rates.exp(), counts, log_rates=False), atol=1e-6, rtol=0
    )
    likelihood = torch.distributions.Poisson(log_rates.exp()).log_prob(counts)
    torch.testing.assert_close(loss + torch.lgamma(counts + 1), -likelihood)


def test_a_rate_of_zero_costs_much_but_stays_finite():
    rates = torch.zeros(1, 1, 2, requires_grad=True)
    loss = poisson_loss_BTN(rates, torch.tensor([[[0, 1]]]), log_rates=False)
    assert loss[0, 0].tolist() == pytest.approx([0.0, 18.42], abs=0.01)
    loss.sum().backward()
    assert rates.grad.isfinite().all()


def test_cross_entropy_is_that_of_torch_with_high_counts_in_the_last_class():
    logits, counts = _random(shape=(*SHAPE, 4)), counts_BTN(*SHAPE, max_count=6)
    assert counts.max() == 6
    losses = cross_entropy_BTN(logits, counts)
    for place in ((0, 0, 0), (2, 4, 3), (1, 2, 2)):
        of_class = min(int(counts[place]), 3)
        assert losses[place].item() == pytest.approx(
            -logits[place].log_softmax(-1)[of_class].item(), rel=1e-5
        )
    flat = torch.nn.functional.cross_entropy(
        logits.flatten(0, 2), counts.flatten().long().clamp_max(3)
    )
    assert losses.mean().item() == pytest.approx(flat.item(), rel=1e-5)


def test_topk_keeps_the_worst_scored_entries():
    loss = torch.tensor([[[5.0, 1.0, 4.0, 9.0, 3.0, 2.0]]])
    scored = torch.tensor([[[True, True, True, False, True, True]]])
    kept = keep_worst(loss, scored, 0.4)  # two of five; the 9 is not scored
    assert kept.tolist() == [[[True, False, True, False, False, False]]]
    # Rounded up, and never none.
    assert keep_worst(loss, scored, 0.41).sum() == 3
    assert keep_worst(loss, scored, 1e-6).tolist() == [[[True] + [False] * 5]]
    assert torch.equal(keep_worst(loss, scored, 1.0), scored)


def test_topk_keeps_the_asked_number_of_many():
    loss, scored = _random(1, (8, 30, 10)), _random(2, (8, 30, 10)) > 0
    kept = keep_worst(loss, scored, 0.25)
    assert kept.sum() == -(-int(scored.sum()) // 4)
    assert loss[kept].min() >= loss[scored & ~kept].max()


def test_masked_sum_counts_scored_entries_and_no_others():
    loss, scored = _random(3), _random(4) > 0
    total, n_scored = masked_sum(loss, scored)
    assert total.item() == pytest.approx(loss[scored].sum().item(), rel=1e-5)
    assert n_scored.item() == scored.sum().item()
    total, n_scored = masked_sum(loss, torch.zeros_like(scored))
    assert (total.item(), n_scored.item()) == (0.0, 0.0)


def test_an_infinite_loss_outside_the_mask_changes_neither_sum_nor_count():
    loss = torch.tensor([[[1.0, torch.inf, torch.nan, 2.0]]])
    total, n_scored = masked_sum(loss, torch.tensor([[[True, False, False, True]]]))
    assert (total.item(), n_scored.item()) == (3.0, 2.0)


@pytest.mark.parametrize("model", [{}, {"log_rates": False}, {"loss": "cross-entropy"}])
def test_the_loss_of_a_network_is_least_at_the_rates_that_made_the_counts(model):
    settings = model_settings(**model)
    network = build_network(settings, n_neurons=2, n_bins=3)
    counts = counts_BTN(4, 3, 2)
    output = network(counts)
    assert network.loss_BTN(output, counts).shape == counts.shape
    rates = network.rates(output)
    assert rates.shape == counts.shape
    assert (rates >= 0).all()
    if settings.loss == "cross-entropy":
        assert output.shape == (*counts.shape, 5)
        assert (rates <= 4).all()
        sure = torch.nn.functional.one_hot(counts.long(), 5) * 50.0
        torch.testing.assert_close(network.rates(sure), counts.float(), atol=1e-4, rtol=0)
        assert network.loss_BTN(sure, counts).max() < 1e-4
    else:
        right = counts.float() + 0.5
        best = right.log() if settings.log_rates else right
        at_best = network.loss_BTN(best, right)
        for wrong in (best - 0.1, best + 0.1):
            assert (network.loss_BTN(wrong, right) > at_best).all()
        torch.testing.assert_close(network.rates(best), right)


def test_a_rectified_readout_gives_no_negative_rates():
    network = build_network(model_settings(log_rates=False), n_neurons=5)
    output = network(counts_BTN(8, 6, 5))
    assert output.min() == 0
    assert output.max() > 0
    assert torch.equal(network.rates(output), output)
