"""The page and the picture of the needle experiment; the paper's numbers beside its own."""

from typing import Any

from matplotlib.figure import Figure

from experiments.comparison import page, picture

#: What is asked for and where it is hidden, by RULER's names.
NEEDLES = {
    "single_1": "number in noise",
    "single_2": "number in prose",
    "single_3": "UUID in prose",
}
PAPER_NAMES = {"single_1": "S-NIAH-PK", "single_2": "S-NIAH-N", "single_3": "S-NIAH-W"}
#: Table 2 of the paper, accuracy at 2K, 4K, 8K, 16K.
PAPER = {
    "single_1": {
        "TTT": (98.4, 98.8, 98.0, 88.4), "Mamba2": (98.6, 61.4, 31.0, 5.4), "DeltaNet": (96.8, 98.8, 98.6, 71.4),
        "LMM": (99.8, 98.4, 98.2, 96.2), "MAC": (99.2, 98.8, 99.0, 98.4), "MAG": (99.4, 98.0, 97.4, 97.4),
        "MAL": (98.8, 98.6, 98.8, 97.8),
    },
    "single_2": {
        "TTT": (60.2, 36.6, 10.2, 4.4), "Mamba2": (98.4, 55.8, 14.2, 0.0), "DeltaNet": (47.2, 15.4, 12.8, 5.4),
        "LMM": (100.0, 99.8, 93.4, 80.2), "MAC": (99.6, 98.2, 97.6, 97.4), "MAG": (99.2, 98.8, 97.2, 98.6),
        "MAL": (99.8, 98.1, 96.8, 96.4),
    },
    "single_3": {
        "TTT": (78.8, 28.0, 4.4, 0.0), "Mamba2": (42.2, 4.2, 0.0, 0.0), "DeltaNet": (46.2, 20.0, 1.6, 0.0),
        "LMM": (90.4, 89.4, 85.8, 80.6), "MAC": (98.2, 98.2, 95.6, 95.2), "MAG": (98.0, 98.0, 90.2, 88.2),
        "MAL": (98.0, 97.4, 92.0, 90.4),
    },
}  # fmt: skip


TITLE = "Needle in a haystack (RULER S-NIAH)"


def body(results: dict[str, Any]) -> list[str]:
    """Accuracy by task, model and length, and the paper's."""
    study = results["study"]
    task = study["task"]
    tested = [str(length) for length in task["test_lengths"]]
    lines = [
        *page.training_lines([study]),
        f"Trained at {', '.join(map(str, task['train_lengths']))} tokens ({task['tokenizer']}){_bare(task)}; "
        f"{task['test_samples']} test samples per task and length (the paper: 500); answers are generated greedily.",
        "",
    ]
    for name in task["tasks"]:
        rows = [
            [
                page.title_of(model),
                *(page.entry(found, ("accuracy", name, n), 100, 1) for n in tested),
            ]
            for model, found in study["models"].items()
        ]
        lines += [f"A {NEEDLES[name]} ({PAPER_NAMES[name]}), found, per cent by tokens:", ""]
        lines += [*page.table(["model", *tested], rows), ""]
        paper = [[model, *(f"{x:.1f}" for x in row)] for model, row in PAPER[name].items()]
        lines += ["The paper's, of models trained on 4K tokens:", ""]
        lines += [*page.table(["model", "2K", "4K", "8K", "16K"], paper), ""]
    lines += _by_seed(study)
    length = task["selection_length"]
    lines += [
        f"Selection (loss of answers in {length} tokens of training haystack, nats) by rate:",
        "",
    ]
    return [*lines, *page.sweep_table({"needles": study})]


def _by_seed(study: dict[str, Any]) -> list[str]:
    """Each seed's accuracy at the longest prompts: a mean may mix what learned the task with what did not."""
    task = study["task"]
    length, rows = str(task["test_lengths"][-1]), []
    for model, found in study["models"].items():
        each = [r["accuracy"] if r else None for r in found["results"]]
        cells = (
            ", ".join("-" if a is None else f"{100 * a[name][length]:.0f}" for a in each)
            for name in task["tasks"]
        )
        rows.append([page.title_of(model), *cells])
    header = ["model", *(NEEDLES[name] for name in task["tasks"])]
    return [f"At {length} tokens, seed by seed:", "", *page.table(header, rows), ""]


def _bare(task: dict[str, Any]) -> str:
    """What is said of bare prompts."""
    if not task["bare_lengths"]:
        return ""
    short = ", ".join(map(str, task["bare_lengths"]))
    return (
        f", in turn with bare prompts (the key and its value, and the key again) of {short} tokens, which are alone "
        f"for {task['bare_steps']:,} steps"
    )


def figure(results: dict[str, Any]) -> Figure | None:
    """Accuracy against length: a column for each task, a row for each family of models."""
    study = results["study"]
    task, found = study["task"], page.done(study)
    groups = picture.families(found)
    if not groups:
        return None
    drawn, axes = picture.panels(len(groups), len(task["tasks"]), TITLE, sharey=True)
    for row, names in zip(axes, groups, strict=True):
        for panel, name in zip(row, task["tasks"], strict=True):
            path = ("accuracy", name)
            picture.curves(
                panel,
                [
                    (picture.along(found[m], path, task["test_lengths"], 100), picture.look(m))
                    for m in names
                ],
            )
            trained = max(task["train_lengths"])
            picture.lengths(panel, task["test_lengths"], "tokens of the prompt", trained)
            picture.percent(panel, "found, %" if panel is row[0] else "")
            panel.set_title(NEEDLES[name])
        picture.legend_beside(row[-1])
    return drawn


REPORT = page.Report(lambda _: TITLE, body, figure)
