"""Adam as in the authors' code, with its learning rate schedule."""

import jax
import jax.numpy as jnp
import optax


def make_optimizer(
    *,
    learning_rate: float = 1e-4,
    warmup_steps: int = 1000,
    decay_steps: int | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-7,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Makes Adam with a linear warm-up from 0, so that the first update changes nothing.

    Args:
      learning_rate: after the warm-up.
      warmup_steps: of the warm-up; 0 for none.
      decay_steps: the rate follows a cosine and is 0 from this step on. Default: no decay.
      beta1, beta2: decay of the moments.
      epsilon: added to √v before bias correction.
      clip_norm: largest norm of the whole gradient. Default: no clipping.

    Returns:
      The optimizer.

    Source: the defaults are the authors'; decay and clipping are ours.
    """

    def schedule(count):
        warm = jnp.minimum(1.0, count / warmup_steps) if warmup_steps else 1.0
        if decay_steps is not None:
            warm = warm * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(1.0, count / decay_steps)))
        return learning_rate * warm

    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        scale_by_adam(beta1, beta2, epsilon),
        optax.scale_by_learning_rate(schedule),
    )


def scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Makes the transformation m √(1 − β₂ᵏ) / (1 − β₁ᵏ) / (√v + ε), with ε where TensorFlow has it.

    `optax.scale_by_adam` adds ε after the bias correction of v, which makes ε 30 times smaller in the first
    steps.

    Source: Kingma & Ba (2015), end of section 2.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros, nu=zeros)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g**2, state.nu, updates)
        k = jnp.asarray(count, jnp.float32)
        correction = jnp.sqrt(1 - beta2**k) / (1 - beta1**k)
        updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + epsilon), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)
