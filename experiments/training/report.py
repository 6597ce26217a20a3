"""What a run says at its end: bits per byte against yardsticks, a sample, the loss curves, where everything lies."""

import io
import json
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display on a training machine
import matplotlib.pyplot as plt
import numpy as np
from etils import epath

from experiments.training.workdir import absolute

_SMOOTHING = 20  # steps over which the drawn curve is averaged


def plot_curves(
    records: dict[str, list[dict[str, Any]]], horizontal: dict[str, float], path: epath.Path
) -> None:
    """Draws bits per byte over steps.

    Args:
      records: per model, what metrics.jsonl holds.
      horizontal: name -> bits per byte, drawn as dashed lines (the yardsticks).
      path: the PNG to write.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, model_records in records.items():
        train = [(r["step"], r["bpb"]) for r in model_records if "bpb" in r]
        valid = [(r["step"], r["valid_bpb"]) for r in model_records if "valid_bpb" in r]
        steps, values = np.asarray(train, np.float64).T
        width = min(_SMOOTHING, len(values))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        (line,) = axes.plot(
            steps[width - 1 :], smooth, label=f"{name}, training (mean of {width} steps)"
        )
        if valid:
            step, value = valid[-1]
            label = f"{name}, all held-out text ({value:.3f})"
            axes.plot(step, value, "o", color=line.get_color(), label=label)
    for (name, value), style in zip(horizontal.items(), (":", "-."), strict=False):
        axes.axhline(value, linestyle=style, color="gray", label=f"{name} ({value:.3f})")
    axes.set(xlabel="step", ylabel="bits per byte")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, dpi=120, format="png")
    path.write_bytes(image.getvalue())
    plt.close(figure)


def write_report(
    workdir: epath.Path,
    scores: dict[str, float],
    counts: dict[str, int],
    records: dict[str, list[dict[str, Any]]],
    sample: str,
) -> None:
    """Writes report.json, sample.txt and loss.png to `workdir`, and prints the report.

    Args:
      workdir: the run's folder.
      scores: name -> bits per byte on the validation text; models and yardsticks.
      counts: model name -> number of parameters.
      records: model name -> what its metrics.jsonl holds.
      sample: generated text, the prompt included.
    """
    yardsticks = {name: value for name, value in scores.items() if name not in records}
    plot_curves(records, yardsticks, workdir / "loss.png")
    (workdir / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    (workdir / "report.json").write_text(
        json.dumps({"bits_per_byte": scores, "parameters": counts}, indent=2) + "\n",
        encoding="utf-8",
    )
    print("\nvalidation bits per byte (the same bytes for all)")
    for name, value in sorted(scores.items(), key=lambda item: item[1]):
        print(
            f"  {name:<24}{value:8.4f}"
            + (f"   {counts[name]:,} parameters" if name in counts else "")
        )
    print(f"\nsample\n{'-' * 80}\n{sample}\n{'-' * 80}")
    places = {
        "loss curves": "loss.png",
        "sample": "sample.txt",
        "scores": "report.json",
        "config, versions": "config.json, versions.json",
        "metrics, parameters": ", ".join(
            f"{name}/metrics.jsonl, {name}/parameters.txt" for name in records
        ),
        "TensorBoard": f"tensorboard --logdir {workdir}",
        "checkpoints": ", ".join(f"{name}/checkpoints" for name in records),
    }
    print(f"\neverything lies under {absolute(workdir)}")
    for what, where in places.items():
        print(f"  {what:<24}{where}")
    print(
        f'  more text               python -m experiments.sample --workdir={workdir} --prompt="class "\n'
    )
