import jax.numpy as jnp
import numpy as np
import optax
import pytest

from supsup_jax import optimizers


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("rmsprop", optimizers.RMSprop(1e-4)),
        ("adam", optimizers.Adam(1e-3, weight_decay=1e-4)),
        ("sgd", optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4)),
        ("hop_sgd", optimizers.SGD(500.0, momentum=0.9, weight_decay=1e-4)),
    ],
)
def test_every_optimiser_has_the_updates_of_the_original(golden, name, optimizer):
    arrays = golden("optim.npz")
    transformation = optimizer.transformation()
    parameter = jnp.asarray(arrays["p0"])
    state = transformation.init(parameter)
    for gradient, expected in zip(arrays["grads"], arrays[name], strict=True):
        update, state = transformation.update(jnp.asarray(gradient), state, parameter)
        parameter = optax.apply_updates(parameter, update)
        np.testing.assert_allclose(parameter, expected, rtol=2e-6, atol=1e-7 * np.abs(expected).max())


def test_the_first_step_of_rmsprop_by_hand():
    transformation = optimizers.RMSprop(0.1).transformation()
    update, _ = transformation.update(jnp.array(2.0), transformation.init(jnp.array(0.0)))
    np.testing.assert_allclose(update, -0.1 * 2 / (np.sqrt(0.01 * 4) + 1e-8), rtol=1e-6)


def test_weight_decay_is_added_to_the_gradient():
    for optimizer in (optimizers.SGD(0.1, 0.0, 0.5), optimizers.SGD(0.1, 0.9, 0.5)):
        transformation = optimizer.transformation()
        start = jnp.array(2.0)
        update, _ = transformation.update(jnp.array(3.0), transformation.init(start), start)
        np.testing.assert_allclose(update, -0.1 * (3 + 0.5 * 2), rtol=1e-6)


def test_the_cosine_schedule_equals_the_originals(golden):
    expected = golden("schedules.json")
    for rates, schedule in (
        (expected["main_CosineAnnealingLR_lr1e3_Tmax10_epochs1to10"], optimizers.Cosine(10, 7)),
        (expected["task_eval_cosine_lr_lr1e3_epochs100_warmup5"], optimizers.Cosine(100, 7, warmup=5)),
    ):
        for epoch, rate in enumerate(rates):
            for step in (7 * epoch, 7 * epoch + 6):
                np.testing.assert_allclose(1e-3 * schedule(step), rate, rtol=1e-5, atol=1e-10)


def test_a_warm_up_grows_linearly_and_then_stays_constant(golden):
    schedule = optimizers.Warmup(5, 7)
    shares = [float(schedule(7 * epoch + 6)) for epoch in range(8)]
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1], rtol=1e-6)
    before_the_cosine = golden("schedules.json")["task_eval_cosine_lr_lr1e3_epochs100_warmup5"][:5]
    np.testing.assert_allclose(1e-3 * np.array(shares[:5]), before_the_cosine, rtol=1e-5)
    assert float(optimizers.Warmup(0, 7)(0)) == 1


@pytest.mark.parametrize("make", [optimizers.RMSprop, optimizers.Adam, optimizers.SGD])
def test_a_schedule_scales_the_updates(make):
    plain, scheduled = make(0.1), make(0.1, schedule=optimizers.Cosine(2, 1))
    gradient, start = jnp.array(2.0), jnp.array(1.0)
    states = [each.transformation().init(start) for each in (plain, scheduled)]
    for share in (1.0, 0.5):
        updates = []
        for place, each in enumerate((plain, scheduled)):
            update, states[place] = each.transformation().update(gradient, states[place], start)
            updates.append(update)
        np.testing.assert_allclose(updates[1], share * updates[0], rtol=1e-6)
