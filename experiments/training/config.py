"""Configuration of a training run: frozen dataclasses inside, ml_collections and absl flags at the edge.

The dataclasses below are the only list of fields. A config file starts from `default_config()`, the same list as a
locked ConfigDict, and sets what it wants; `--config.field=value` overrides it; `train_config` turns the result
into dataclasses and refuses values that cannot work, before anything is compiled.
"""

import dataclasses
import difflib
import importlib.util
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from titans_jax.config import TitansConfig, memory_fields
from titans_jax.fields import (
    FieldError,
    check_fields,
    field,
    flag,
    fraction,
    inside_unit,
    instance_of,
    non_negative,
    non_negative_int,
    one_of,
    positive,
    positive_int,
    random_seed,
    require,
    string,
    whole,
)

T = typing.TypeVar("T")
# The vocabulary is the tokenizer's, so it is no field of a config.
_DERIVED = ("model.vocab_size",)


def profiled_steps(value: str) -> tuple[int, int]:
    """Returns the first and the last of config.profile_steps, "FIRST:LAST".

    Raises:
      FieldError: it is not of that form.
    """
    match = re.fullmatch(r"(\d+):(\d+)", value)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    wanted = "FIRST:LAST, two steps from 1 on, such as 10:15"
    require(1 <= first <= last, "profile_steps", value, wanted)
    return first, last


def _profile_steps(name: str, value: Any) -> str:
    if string(name, value):
        profiled_steps(value)
    return value


def _spike_factor(name: str, value: Any) -> float:
    factor = non_negative(name, value)
    wanted = "0, or above 1, by which the mean is multiplied"
    require(factor == 0 or factor > 1, name, value, wanted)
    return factor


_LEFT_OVER = whole("an integer, 0 for what the other axes leave", 0)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, and how it becomes sequences.

    Attributes:
      path: a text file, a folder, a glob, or "stdlib": the Python standard library's own sources; or a folder that
        experiments.prepare_data wrote, which may be larger than RAM; or several of those with the share of the
        sequences that comes from each, "FOLDER:0.7,FOLDER:0.3".
      tokenizer: "bytes", a SentencePiece model file, or a Hugging Face tokenizers JSON file.
      sequence_length: tokens per training sequence.
      packing: "stream" lets sequences run across documents; "documents" starts each at a chunk boundary
        and resets the memory there.
      carry: windows over which a row of the batch goes on through the text with its memory; gradients stop at every
        window's start (carry.py). 0: every window starts with a fresh one.
      valid_fraction: fraction of the text held out; whole documents where there are many. A prepared folder has its
        own held-out text instead.
      valid_bytes: at most this many held-out bytes are scored; 0 = all. Of several folders each gives its share.
    """

    path: str = field("stdlib", string)
    tokenizer: str = field("bytes", string)
    sequence_length: int = field(512, whole("an integer of at least 2", 2))
    packing: str = field("stream", one_of(("stream", "documents")))
    carry: int = field(0, whole("an integer, 0 for no carrying", 0))
    valid_fraction: float = field(0.05, inside_unit)
    valid_bytes: int = field(0, whole("an integer, 0 for all", 0))

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, cosine decay, and clipping by the global norm.

    Attributes:
      learning_rate: the peak.
      warmup_fraction: fraction of the steps over which the rate rises linearly.
      final_fraction: the rate at the last step, as a fraction of the peak.
      weight_decay: decoupled, on matrices only.
      clip_norm: gradients of a larger global norm are scaled down to it.
      beta1: decay of the gradient's running mean.
      beta2: decay of the squared gradient's running mean.
      epsilon: added to the denominator.
    """

    learning_rate: float = field(1e-3, positive)
    warmup_fraction: float = field(0.05, fraction)
    final_fraction: float = field(0.1, fraction)
    weight_decay: float = field(0.1, non_negative)
    clip_norm: float = field(1.0, positive)
    beta1: float = field(0.9, inside_unit)
    beta2: float = field(0.95, inside_unit)
    epsilon: float = field(1e-8, positive)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes share out a run (mesh.py); the sizes multiply to their number.

    Attributes:
      data: copies of the model, each for a part of the batch; 0 = as many as the other axes leave.
      fsdp: parts of the batch too, with parameters and optimizer state shared out; 0 likewise, then data must be given.
      sequence: parts of every sequence's tokens.
      tensor: parts of the heads and of hidden features.
    """

    data: int = field(0, _LEFT_OVER)
    fsdp: int = field(1, _LEFT_OVER)
    sequence: int = field(1, positive_int)
    tensor: int = field(1, positive_int)

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            bool(self.data or self.fsdp),
            "data",
            0,
            "above 0 with fsdp = 0: one is what is left over",
        )


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """The text generated at the end of a run.

    Attributes:
      prompt: the text to continue.
      length: tokens to generate.
      temperature: 0 = always the likeliest token.
      top_k: draw from the k likeliest tokens only; 0 = from all.
    """

    prompt: str = field("def main(", string)
    length: int = field(400, positive_int)
    temperature: float = field(0.8, non_negative)
    top_k: int = field(40, whole("an integer, 0 for all tokens", 0))

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run.

    Attributes:
      seed: of the parameters and of the data order.
      steps: optimizer steps; the learning-rate schedule spans them.
      batch_size: sequences per optimizer step.
      cpu_devices: on a CPU, so many devices share the work of each process; best the number of cores.
      distributed: this is one of several processes, which find each other as `jax.distributed.initialize` says.
      accumulation: the batch is processed in this many equal parts, one after another.
      baseline: also train a Transformer++ of equal parameters on the same batches.
      log_every: steps between console lines.
      eval_every: steps between validations during training; 0 = only at the end.
      eval_batches: validation batches scored during training; the end scores all.
      checkpoint_every: steps between checkpoints; one is always made at the end.
      keep_checkpoints: the newest so many are kept; at least 2, so that a damaged one has one before it.
      keep_every: checkpoints at multiples of so many steps are kept too; 0 = none.
      restore_from: start with the parameters of this checkpoint, or of this run's newest, where names match
        (finetune.py); "" = from scratch.
      on_bad_step: "stop" the run at a loss or gradient that is not finite and at a spike, or "skip" it (guard.py).
      spike_factor: a loss above the mean of recent ones by this factor is a spike; 0 = none is.
      step_timeout: seconds after which a step that has not ended ends the process (watchdog.py); 0 = never.
      process_timeout: seconds after which a process that is not heard of is lost, which ends the others.
      probe_every: steps between looks into the memories, token by token on one sequence (probe.py); 0 = none.
      profile_steps: "FIRST:LAST", the steps of which a trace is left in workdir/profile; "" = none.
      wandb_project: Weights & Biases project that gets the metrics too; "" = none.
      data: see DataConfig.
      model: see titans_jax.TitansConfig.
      optimizer: see OptimizerConfig.
      mesh: see MeshConfig.
      sample: see SampleConfig.
    """

    seed: int = field(0, random_seed)
    steps: int = field(1000, positive_int)
    batch_size: int = field(8, positive_int)
    cpu_devices: int = field(1, positive_int)
    distributed: bool = field(False, flag)
    accumulation: int = field(1, positive_int)
    baseline: bool = field(True, flag)
    log_every: int = field(10, positive_int)
    eval_every: int = field(100, non_negative_int)
    eval_batches: int = field(4, positive_int)
    checkpoint_every: int = field(100, positive_int)
    keep_checkpoints: int = field(2, whole("an integer of at least 2", 2))
    keep_every: int = field(0, non_negative_int)
    restore_from: str = field("", string)
    on_bad_step: str = field("stop", one_of(("stop", "skip")))
    spike_factor: float = field(0.0, _spike_factor)
    step_timeout: int = field(1800, non_negative_int)
    process_timeout: int = field(100, positive_int)
    probe_every: int = field(1000, non_negative_int)
    profile_steps: str = field("", _profile_steps)
    wandb_project: str = field("", string)
    data: DataConfig = field(DataConfig(), instance_of(DataConfig))
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    optimizer: OptimizerConfig = field(OptimizerConfig(), instance_of(OptimizerConfig))
    mesh: MeshConfig = field(MeshConfig(), instance_of(MeshConfig))
    sample: SampleConfig = field(SampleConfig(), instance_of(SampleConfig))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.wandb_project and importlib.util.find_spec("wandb") is None:
            raise ValueError(
                f"config.wandb_project={self.wandb_project!r}: needs the package wandb, which is not installed; "
                "pip install 'titans-jax[wandb]'"
            )
        require(
            self.keep_every % self.checkpoint_every == 0,
            "keep_every",
            self.keep_every,
            f"a multiple of checkpoint_every={self.checkpoint_every}, or 0",
        )
        require(
            not (self.restore_from and self.baseline),
            "restore_from",
            self.restore_from,
            "empty with a baseline, which would still start from scratch; compare nothing, config.baseline=False",
        )
        divisors = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
        require(
            self.accumulation in divisors,
            "accumulation",
            self.accumulation,
            f"a divisor of batch_size={self.batch_size}, one of {divisors}",
        )
        if self.data.carry:
            self._check_carry()

    def _check_carry(self) -> None:
        carry, length, alignment = self.data.carry, self.data.sequence_length, self.model.alignment
        for fits, wanted in (
            (self.data.packing == "stream", "0 where data.packing is 'documents'"),
            (
                self.accumulation == 1,
                f"0 where accumulation is more than 1, here {self.accumulation}",
            ),
            (
                self.mesh.sequence == 1,
                f"0 where mesh.sequence is more than 1, here {self.mesh.sequence}",
            ),
            (
                self.model.window is not None or not self.model.has_attention,
                "0 where attention has no window: its cache would grow with the text",
            ),
            (
                length % alignment == 0,
                f"0 where data.sequence_length={length} is no multiple of the model's chunk or segment, {alignment}",
            ),
        ):
            require(fits, "data.carry", carry, wanted)


def default_config() -> ConfigDict:
    """Returns TrainConfig's fields and defaults as a locked ConfigDict.

    Flags cannot write None, so an optional whole number is 0 where it is None: `window=0` is no window.
    """
    return as_config_dict(TrainConfig())


def as_config_dict(config: Any) -> ConfigDict:
    """Returns the fields of any such dataclass as a locked ConfigDict."""
    fields = ConfigDict(_as_flags(config, ""))
    fields.lock()
    return fields


def from_config_dict(cls: type[T], config: ConfigDict) -> T:
    """Returns a ConfigDict of `as_config_dict`, changed or not, as the dataclass `cls`.

    Raises:
      ValueError: a value cannot work.
    """
    return _from_flags(cls, config.to_dict(), "config")


def set_model(config: ConfigDict, model: TitansConfig) -> None:
    """Sets config.model to a model's fields, such as a preset's."""
    config.model.update(_as_flags(model, "model."))


def train_config(config: ConfigDict) -> TrainConfig:
    """Returns `config` as frozen dataclasses.

    Raises:
      ValueError: a value cannot work; the message names the field, the value and what would be right.
    """
    return from_config_dict(TrainConfig, config)


def from_flat(flat: dict[str, Any]) -> TrainConfig:
    """Returns the config that `flatten` made {"model.dim": 128, ...} of."""
    nested: dict[str, Any] = {}
    for name, value in completed(flat).items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return _from_flags(TrainConfig, nested, "config")


def completed(flat: dict[str, Any]) -> dict[str, Any]:
    """A run's config, from `flatten`, with the fields that files of version 0.1 do not have."""
    prefix = "model.memory."
    memory = {n.removeprefix(prefix): v for n, v in flat.items() if n.startswith(prefix)}
    rest = {name: value for name, value in flat.items() if not name.startswith(prefix)}
    return (
        {"data.carry": 0}
        | rest
        | {prefix + name: value for name, value in memory_fields(memory).items()}
    )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a nested dataclass or dict as {"model.dim": 128, ...}."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) or (dataclasses.is_dataclass(value)):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses absl flags: a parser for `absl.app`.

    A misspelt `--config.field` ends the program with the nearest field names instead of a traceback.
    """
    unknown = []
    config_file = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), None)
    # A file that does not exist or does not load is reported by the flag itself.
    fields = list(flatten(load_config(config_file).to_dict())) if config_file else []
    for argument in argv[1:]:
        if fields and argument.startswith("--config."):
            name = argument.removeprefix("--config.").split("=", 1)[0]
            if name not in fields:
                unknown.append(f"--config.{name}: no such field; {_nearest(name, fields)}")
    if unknown:
        print("\n".join(unknown), file=sys.stderr)
        sys.exit(2)
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        print(f"{error}\nrun {argv[0]} --help for every flag", file=sys.stderr)
        sys.exit(2)


def load_config(path: str) -> ConfigDict:
    """What a config file, or file.py:argument, returns; one that cannot be read ends the program with one line."""
    path, colon, argument = path.partition(":")  # file.py:argument of get_config
    if not Path(path).is_file():
        near = difflib.get_close_matches(
            path, map(str, Path(path).parent.glob("*.py")), n=3, cutoff=0.3
        )
        print(
            f"--config={path}: no such file" + (f"; nearest: {', '.join(near)}" if near else ""),
            file=sys.stderr,
        )
        sys.exit(2)
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={path}: not a Python file; it must define get_config()")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if colon else module.get_config()


def _nearest(name: str, fields: Sequence[str]) -> str:
    # A field may be misspelt anywhere, or be right but under the wrong group: compare full and last names.
    last_names = {f.rsplit(".", 1)[-1]: f for f in fields}
    near = difflib.get_close_matches(name, fields, n=3, cutoff=0.6)
    near += [
        last_names[m]
        for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], last_names, n=3, cutoff=0.7)
    ]
    near = list(dict.fromkeys(near))[:4]
    if near:
        return "nearest: " + ", ".join(near)
    return "fields: " + ", ".join(fields)


def _as_flags(config: Any, prefix: str) -> dict[str, Any]:
    hints = typing.get_type_hints(type(config))
    values = {}
    for declared in dataclasses.fields(config):
        name, value = prefix + declared.name, getattr(config, declared.name)
        if name in _DERIVED:
            continue
        if dataclasses.is_dataclass(value):
            value = _as_flags(value, name + ".")
        elif _is_optional_int(hints[declared.name]) and value is None:
            value = 0
        values[declared.name] = value
    return values


def _from_flags(cls: type, values: dict[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(cls)
    converted = {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"{path}.{name}: no such field; {_nearest(name, list(hints))}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = _from_flags(typing.cast(type, hint), value, f"{path}.{name}")
        elif _is_optional_int(hint) and value == 0:
            value = None
        converted[name] = value
    try:
        return cls(**converted)
    except FieldError as error:  # said as the flag is written
        raise ValueError(f"{path}.{error.field}={error.value!r}: must be {error.wanted}") from error


def _is_optional_int(hint: Any) -> bool:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return is_union and set(typing.get_args(hint)) == {int, type(None)}
