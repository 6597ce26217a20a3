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

from titans_jax.config import TitansConfig

T = typing.TypeVar("T")
# The vocabulary is the tokenizer's, so it is no field of a config.
_DERIVED = ("model.vocab_size",)


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
      valid_fraction: fraction of the text held out; whole documents where there are many. A prepared folder has its
        own held-out text instead.
      valid_bytes: at most this many held-out bytes are scored; 0 = all. Of several folders each gives its share.
    """

    path: str = "stdlib"
    tokenizer: str = "bytes"
    sequence_length: int = 512
    packing: str = "stream"
    valid_fraction: float = 0.05
    valid_bytes: int = 0


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

    learning_rate: float = 1e-3
    warmup_fraction: float = 0.05
    final_fraction: float = 0.1
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes share out a run (mesh.py); the sizes multiply to their number.

    Attributes:
      data: copies of the model, each for a part of the batch; 0 = as many as the other axes leave.
      fsdp: parts of the batch too, with parameters and optimizer state shared out; 0 likewise, then data must be given.
      sequence: parts of every sequence's tokens.
      tensor: parts of the heads and of hidden features.
    """

    data: int = 0
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """The text generated at the end of a run.

    Attributes:
      prompt: the text to continue.
      length: tokens to generate.
      temperature: 0 = always the likeliest token.
      top_k: draw from the k likeliest tokens only; 0 = from all.
    """

    prompt: str = "def main("
    length: int = 400
    temperature: float = 0.8
    top_k: int = 40


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

    seed: int = 0
    steps: int = 1000
    batch_size: int = 8
    cpu_devices: int = 1
    distributed: bool = False
    accumulation: int = 1
    baseline: bool = True
    log_every: int = 10
    eval_every: int = 100
    eval_batches: int = 4
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    keep_every: int = 0
    restore_from: str = ""
    on_bad_step: str = "stop"
    spike_factor: float = 0.0
    step_timeout: int = 1800
    process_timeout: int = 100
    probe_every: int = 1000
    profile_steps: str = ""
    wandb_project: str = ""
    data: DataConfig = DataConfig()
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    sample: SampleConfig = SampleConfig()

    def __post_init__(self) -> None:
        _check(self)


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
    return _from_flags(cls, config.to_dict())


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
    for name, value in flat.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return _from_flags(TrainConfig, nested)


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


def profiled_steps(value: str) -> tuple[int, int]:
    """Returns the first and the last of config.profile_steps, "FIRST:LAST".

    Raises:
      ValueError: it is not of that form.
    """
    match = re.fullmatch(r"(\d+):(\d+)", value)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(
            f"config.profile_steps={value!r}: must be FIRST:LAST, two steps from 1 on, such as 10:15"
        )
    return first, last


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses absl flags; `app.run(main, flags_parser=parse_flags)`.

    A misspelt `--config.field` ends the program with the nearest field names instead of a traceback.
    """
    unknown = []
    config_file = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), None)
    # A file that does not exist or does not load is reported by the flag itself.
    fields = list(flatten(_load_config(config_file).to_dict())) if config_file else []
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


def _load_config(path: str) -> ConfigDict:
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
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        if name in _DERIVED:
            continue
        if dataclasses.is_dataclass(value):
            value = _as_flags(value, name + ".")
        elif _is_optional_int(hints[field.name]) and value is None:
            value = 0
        values[field.name] = value
    return values


def _from_flags(cls: type, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    converted = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = _from_flags(typing.cast(type, hint), value)
        elif _is_optional_int(hint) and value == 0:
            value = None
        converted[name] = value
    return cls(**converted)


def _is_optional_int(hint: Any) -> bool:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return is_union and set(typing.get_args(hint)) == {int, type(None)}


def _check(config: TrainConfig) -> None:
    at_least = {
        "steps": 1, "batch_size": 1, "cpu_devices": 1, "accumulation": 1, "log_every": 1, "eval_every": 0,
        "eval_batches": 1, "checkpoint_every": 1, "keep_checkpoints": 2, "data.sequence_length": 2,
        "data.valid_bytes": 0, "sample.length": 1, "sample.top_k": 0, "mesh.data": 0, "mesh.fsdp": 0,
        "mesh.sequence": 1, "mesh.tensor": 1, "keep_every": 0, "step_timeout": 0, "process_timeout": 1,
        "probe_every": 0,
    }  # fmt: skip
    flat = flatten(config)
    for name, least in at_least.items():
        if flat[name] < least:
            raise ValueError(f"config.{name}={flat[name]}: must be at least {least}")
    open_unit = {"data.valid_fraction", "optimizer.beta1", "optimizer.beta2"}
    for name in sorted(open_unit):
        if not 0 < flat[name] < 1:
            raise ValueError(f"config.{name}={flat[name]}: must lie between 0 and 1, exclusive")
    for name in ("optimizer.warmup_fraction", "optimizer.final_fraction"):
        if not 0 <= flat[name] <= 1:
            raise ValueError(f"config.{name}={flat[name]}: must lie between 0 and 1")
    for name in ("optimizer.learning_rate", "optimizer.clip_norm", "optimizer.epsilon"):
        if not flat[name] > 0:
            raise ValueError(f"config.{name}={flat[name]}: must be positive")
    for name in ("optimizer.weight_decay", "sample.temperature"):
        if not flat[name] >= 0:
            raise ValueError(f"config.{name}={flat[name]}: must not be negative")
    if config.on_bad_step not in ("stop", "skip"):
        raise ValueError(f"config.on_bad_step={config.on_bad_step!r}: must be 'stop' or 'skip'")
    if config.spike_factor and not config.spike_factor > 1:
        raise ValueError(
            f"config.spike_factor={config.spike_factor}: must be 0, or above 1, by which the mean is multiplied"
        )
    if config.profile_steps:
        profiled_steps(config.profile_steps)
    if config.wandb_project and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"config.wandb_project={config.wandb_project!r}: needs the package wandb, which is not installed; "
            "pip install 'titans-jax[wandb]'"
        )
    if config.keep_every % config.checkpoint_every:
        raise ValueError(
            f"config.keep_every={config.keep_every}: must be a multiple of "
            f"config.checkpoint_every={config.checkpoint_every}, or 0"
        )
    if config.restore_from and config.baseline:
        raise ValueError(
            f"config.restore_from={config.restore_from!r}: the baseline would still start from scratch; compare "
            "nothing, config.baseline=False"
        )
    if config.batch_size % config.accumulation:
        divisors = [n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0]
        raise ValueError(
            f"config.accumulation={config.accumulation}: must divide config.batch_size={config.batch_size}; "
            f"one of {divisors}"
        )
    if not config.mesh.data and not config.mesh.fsdp:
        raise ValueError(
            "config.mesh.data=0 and config.mesh.fsdp=0: only one of them can be what the other axes leave"
        )
    if config.data.packing not in ("stream", "documents"):
        raise ValueError(
            f"config.data.packing={config.data.packing!r}: must be 'stream' or 'documents'"
        )
