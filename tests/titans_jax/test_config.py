"""Every field of a model's configuration refuses what does not fit, by name, value and what would."""

import dataclasses

import pytest

from titans_jax.config import (
    RULE_OF_0_1,
    MemoryConfig,
    RecurrenceConfig,
    TitansConfig,
    memory_fields,
)

MEMORY = MemoryConfig(num_heads=4, chunk=64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": "mca"}, r"variant must be one of .*'mac'.*, got 'mca'"),
        ({"combine": "tanh"}, r"combine must be one of .*'silu'.*, got 'tanh'"),
        ({"dtype": "float16"}, r"dtype must be one of .*'bfloat16'.*, got 'float16'"),
        ({"vocab_size": 0}, "vocab_size must be a positive integer, got 0"),
        ({"dim": -8}, "dim must be a positive integer, got -8"),
        ({"dim": 256.0}, "dim must be a positive integer, got 256.0"),
        ({"num_layers": True}, "num_layers must be a positive integer, got True"),
        ({"num_heads": 0}, "num_heads must be a positive integer, got 0"),
        ({"num_heads": 3}, "num_heads must be a divisor of dim = 256 .*, got 3"),
        ({"num_heads": 256}, "num_heads must be .* heads of even size .*, got 256"),
        ({"window": 0, "variant": "mag"}, "window must be a positive integer .*, got 0"),
        ({"window": None, "variant": "mal"}, "window must be .* transformer only.*, got None"),
        ({"segment": 0}, "segment must be a positive integer, got 0"),
        ({"segment": 96}, "segment must be a multiple of memory.chunk = 64, got 96"),
        ({"persistent_tokens": -1}, "persistent_tokens must be an integer, 0 for none, got -1"),
        ({"feed_forward": 1.5}, "feed_forward must be an integer, 0 for none, got 1.5"),
        ({"memory": None}, "memory must be a MemoryConfig, got None"),
        (
            {"memory": dataclasses.replace(MEMORY, num_heads=5)},
            "memory.num_heads must be a divisor of dim = 256, got 5",
        ),
        (
            {"memory": dataclasses.replace(MEMORY, network=lambda weights, x: x, **RULE_OF_0_1)},
            "memory.network must be 'mlp' or 'residual' in a language model",
        ),
        ({"rope_base": 1.0}, "rope_base must be greater than 1, got 1.0"),
        ({"tie_embeddings": "yes"}, r"tie_embeddings must be one of \(True, False\), got 'yes'"),
        ({"remat": "no"}, r"remat must be one of \(True, False\), got 'no'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TitansConfig(**{"memory": MEMORY, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": True}, "depth must be an integer from 1 to 4, got True"),
        ({"depth": 5, "network": lambda weights, x: x}, "depth must be .*, got 5"),
        ({"network": "rnn"}, "network must be 'mlp', 'residual' or a function, got 'rnn'"),
        ({"tile": 0}, "tile must be a positive integer or None, got 0"),
        ({"gates": "head"}, "gates must be one of .*, got 'head'"),
        ({"momentum": 2}, r"momentum must be one of \(True, False\), got 2"),
        ({"forget": 1}, r"forget must be one of \(True, False\), got 1"),
        ({"bound": "yes"}, r"bound must be one of \('none', 'gradient', 'features'\), got 'yes'"),
        ({"anchor": "tile"}, r"anchor must be one of \('chunk', 'token'\), got 'tile'"),
        ({"lower_step": -1}, "lower_step must be a finite number, 0 or more, got -1"),
        ({"forget_to": "M_0"}, r"forget_to must be one of \('zero', 'start'\), got 'M_0'"),
        ({"weights_start": 1}, r"weights_start must be one of \('plain', 'features'\), got 1"),
        ({"output_gate": None}, "output_gate must be .*, got None"),
        ({"step_scale": float("inf")}, "step_scale must be a positive, finite number, got inf"),
        ({"step_scale": 0}, "step_scale must be a positive, finite number, got 0"),
        ({"step_bias": "0"}, "step_bias must be a finite number, got '0'"),
        ({"execution": "quick"}, "execution must be one of .*, got 'quick'"),
    ],
)
def test_a_memory_that_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**fields)


def test_only_what_a_variant_uses_must_fit():
    odd = dataclasses.replace(MEMORY, num_heads=5)
    assert TitansConfig(variant="transformer", memory=odd, window=None).window is None
    assert TitansConfig(variant="lmm", memory=MEMORY, num_heads=3).num_heads == 3
    assert TitansConfig(variant="mag", memory=MEMORY, segment=96).segment == 96


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 0}, "num_heads must be a positive integer, got 0"),
        ({"chunk": 0}, "chunk must be a positive integer, got 0"),
        ({"groups": 3}, "groups must be a divisor of num_heads = 4, got 3"),
        ({"conv_width": -1}, "conv_width must be an integer, 0 for none, got -1"),
        ({"value_expansion": -1.0}, "value_expansion must be .* 0 for the published one, got -1.0"),
        ({"step_bias": float("nan")}, "step_bias must be a finite number, got nan"),
        ({"execution": "token"}, "execution must be one of .*, got 'token'"),
    ],
)
def test_a_recurrence_that_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RecurrenceConfig(**fields)


@pytest.mark.parametrize(
    ("variant", "recurrence", "message"),
    [
        (
            "deltanet",
            {"num_heads": 3},
            "recurrence.num_heads must be a divisor of the 256 .*, got 3",
        ),
        (
            "gla",
            {"key_expansion": 0.3},
            "recurrence.key_expansion must be .* whole number .*, got 0.3",
        ),
        ("retnet", {"num_heads": 256}, "recurrence.num_heads must be .* even size .*, got 256"),
    ],
)
def test_a_recurrence_must_fit_the_model(variant, recurrence, message):
    with pytest.raises(ValueError, match=message):
        TitansConfig(variant=variant, recurrence=RecurrenceConfig(**recurrence))


def test_a_hybrid_needs_a_window():
    with pytest.raises(ValueError, match=r"window must be a positive integer .*, got None"):
        TitansConfig(variant="samba", window=None)


def test_a_memory_of_version_0_1_is_what_it_was():
    """Its files have `bound_step` and none of the fields that came after; they keep the meaning that they had."""
    written = {"num_heads": 2, "chunk": 16, "bound_step": False, "step_bias": -1.0}
    expected = MemoryConfig(
        num_heads=2,
        chunk=16,
        step_scale=0.64,
        step_bias=-1.0,
        anchor="chunk",
        bound="none",
        lower_step=1.0,
        forget_to="zero",
        forget_bias=-9.0,
        weights_start="plain",
    )
    assert MemoryConfig(**memory_fields(written)) == expected
    assert MemoryConfig(**memory_fields(written | {"bound_step": True})).bound == "gradient"
    today = dataclasses.asdict(MemoryConfig(anchor="token", bound="features"))
    assert memory_fields(today) == today
