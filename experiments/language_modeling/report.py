"""The page and the picture of the language-modelling experiment."""

from typing import Any

from matplotlib.figure import Figure

from experiments.comparison import page, picture

#: The paper's Table 1, 340M parameters and 15B tokens: perplexity on WikiText and LAMBADA, accuracy on LAMBADA and the
#: average of eight tasks.
PAPER = {
    "transformer": (31.52, 41.08, 30.76, 42.92),
    "retnet": (32.50, 49.73, 28.24, 42.54),
    "gla": (28.51, 43.02, 28.73, 44.09),
    "deltanet": (28.65, 47.30, 28.43, 44.04),
    "ttt_linear": (27.44, 34.19, 30.06, 44.51),
    "gated_deltanet": (27.01, 30.94, 34.11, 45.42),
    "lmm": (26.18, 29.97, 34.98, 46.17),
    "mac": (25.43, 28.13, 36.00, 47.36),
    "mag": (25.07, 28.72, 36.71, 47.54),
    "mal": (24.69, 28.80, 35.74, 46.55),
}


OURS = ("lmm", "mac", "mag", "mal")
TITLE = "Language modelling"


def body(results: dict[str, Any]) -> list[str]:
    """Bits per byte, questions, learning rates."""
    study = results["study"]
    models, task = page.done(study), study["task"]
    lines = [*page.training_lines([study]), ""]
    if not models:
        return lines
    seen = study["config"]["steps"] * task["batch_size"] * task["length"]
    lines += [
        f"{seen:,} tokens of training ({task['tokenizer']}), windows of {task['length']} in training and testing. "
        "Beside them the paper's perplexities at 340M parameters and 15B tokens, whose order is all that compares.",
        "",
    ]
    tests = _tests(models)
    header = [
        "model",
        "parameters",
        *(f"{page.text_of(t)}, bits/byte" for t in tests),
        "paper: Wiki ppl",
        "paper: LAMBADA ppl",
    ]
    rows = []
    for name in sorted(models, key=lambda n: page.number(models[n], ("bits_per_byte", tests[0]))):
        model = models[name]
        bits = [page.entry(model, ("bits_per_byte", test), digits=4) for test in tests]
        paper = [f"{v:.2f}" for v in PAPER[name][:2]] if name in PAPER else ["", ""]
        rows.append([page.title_of(name), f"{model['parameters']:,}", *bits, *paper])
    lines += [*page.table(header, rows), "", *_diverged(study)]
    if next(iter(models.values()))["results"][0]["questions"]:
        lines += [*_questions(models), ""]
    said = "Selection (bits per byte of held-out ends of the training books) by rate:"
    return [*lines, said, "", *page.sweep_table({"text": study})]


def _tests(models: dict[str, Any]) -> list[str]:
    return list(next(iter(models.values()))["results"][0]["bits_per_byte"])


def _diverged(study: dict[str, Any]) -> list[str]:
    lost = [page.title_of(name) for name in study["models"] if name not in page.done(study)]
    return [f"Diverged at every rate: {', '.join(lost)}.", ""] if lost else []


def _questions(models: dict[str, Any]) -> list[str]:
    """Accuracies in percent; of words the perplexity too."""
    first = next(iter(models.values()))["results"][0]["questions"]
    columns = []
    for task, metrics in first.items():
        columns += [(task, name) for name in ("acc", "acc_norm", "perplexity") if name in metrics]
    header = ["model", *(f"{task} {name}" for task, name in columns)]
    chance = [
        f"{100 * first[t]['chance']:.1f}" if n.startswith("acc") and "chance" in first[t] else ""
        for t, n in columns
    ]
    rows = [["chance", *chance]]
    for name, model in models.items():
        cells = [
            page.entry(model, ("questions", t, n), 100 if n.startswith("acc") else 1, 1)
            for t, n in columns
        ]
        rows.append([page.title_of(name), *cells])
    count = max(int(m["questions"]) for m in first.values())
    some = next(iter(models.values()))
    stderr = max(page.number(some, ("questions", task, "acc_stderr"))[0] for task in first)
    lines = [
        f"Zero-shot questions, at most {count} of each file, scored as lm-evaluation-harness does. Models of this size "
        f"answer near chance; one accuracy's standard error is up to {100 * stderr:.1f} points.",
        "",
    ]
    return lines + page.table(header, rows)


def figure(results: dict[str, Any]) -> Figure | None:
    """Bits per byte of every model, a panel for each test; those with this library's memories in blue."""
    models = page.done(results["study"])
    if not models:
        return None
    tests = _tests(models)
    names = sorted(models, key=lambda n: page.number(models[n], ("bits_per_byte", tests[0])))[::-1]
    size = (3.8, 0.3 * len(names) + 1)
    drawn, axes = picture.panels(1, len(tests), TITLE, size=size, sharey=True)
    for panel, test in zip(axes[0], tests, strict=True):
        values = {n: page.number(models[n], ("bits_per_byte", test)) for n in names}
        picture.dots(panel, names, values, {n: "C0" if n in OURS else "0.4" for n in names})
        panel.set(xlabel="bits per byte, bars: one deviation over seeds", title=page.text_of(test))
    return drawn


REPORT = page.Report(lambda _: TITLE, body, figure)
