"""Prepares text for training: text, JSON Lines or Parquet files to shards of token ids.

    python -m experiments.prepare_data --input='DIR/**/*.txt' --tokenizer=TOKENIZER.model --output=PREPARED
    python -m experiments.train --config=... --config.data.path=PREPARED --config.data.tokenizer=TOKENIZER.model

A text file is one document; of a .jsonl file each line's --field, of a .parquet file each row of --column. The same
files give the same bytes, whatever the number of --workers, and the same command after an interruption continues: what
is finished is kept. --valid_fraction of the documents are held out for validation, by a hash of their text, or the
tail of each (held_out.py).
Empty documents are left out and bytes that are no UTF-8 replaced by U+FFFD: both are counted, by file, in
manifest.json.
"""

import os
from pathlib import Path

from absl import flags
from tqdm import tqdm

from experiments import command
from experiments.prepare.plan import Settings, make_plan
from experiments.prepare.run import Outcome, prepare
from experiments.prepare.shard_maker import EMPTY, INVALID_UTF8
from titans_jax.data.tokenizers import load_tokenizer


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_string("input", None, "a file, a folder or a glob", required=True)
    flags.DEFINE_string("output", None, "the folder to write; created", required=True)
    flags.DEFINE_string(
        "tokenizer", None, '"bytes", a SentencePiece .model or a tokenizers .json', required=True
    )
    flags.DEFINE_string("field", Settings.field, "of JSON Lines: the field that holds text")
    flags.DEFINE_string("column", Settings.column, "of Parquet: the column that holds text")
    flags.DEFINE_float(
        "valid_fraction",
        Settings.valid_fraction,
        "share of the documents to hold out; at least one, unless 0",
    )
    flags.DEFINE_string(
        "invalid_utf8",
        Settings.invalid_utf8,
        "what to do with bytes that are no UTF-8: replace, fail",
    )
    flags.DEFINE_integer(
        "shard_bytes",
        Settings.shard_bytes,
        "about so many bytes of text make one shard, which one worker writes",
    )
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "processes", lower_bound=1)


def main() -> None:
    """Prepares, and says what came of it."""
    try:
        settings = Settings(
            field=flags.FLAGS.field,
            column=flags.FLAGS.column,
            invalid_utf8=flags.FLAGS.invalid_utf8,
            valid_fraction=flags.FLAGS.valid_fraction,
            shard_bytes=flags.FLAGS.shard_bytes,
        )
        plan = make_plan(
            flags.FLAGS.input, settings, load_tokenizer(flags.FLAGS.tokenizer).fingerprint()
        )
        weight = sum(part.weight for unit in plan.units for part in unit)
        with tqdm(total=weight, unit="B", unit_scale=True, desc=f"{len(plan.units)} shards") as bar:
            outcome = prepare(
                plan,
                Path(flags.FLAGS.output),
                flags.FLAGS.tokenizer,
                flags.FLAGS.workers,
                bar.update,
            )
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(
            "interrupted; the same command continues: finished shards are kept"
        ) from None
    print(summary(outcome, settings))
    print(
        f"--config.data.path={flags.FLAGS.output} --config.data.tokenizer={flags.FLAGS.tokenizer}"
    )


def summary(outcome: Outcome, settings: Settings, most: int = 5) -> str:
    """What a preparation did, as text; of the files that were not as they should be, the worst `most`."""
    manifest, counts = outcome.manifest, outcome.manifest.counts
    lines = [
        f"{counts['documents']:,} documents, {counts['tokens']:,} tokens, {counts['bytes']:,} bytes of text in "
        f"{len(manifest.shards)} shards",
        f"{manifest.valid_documents:,} documents, {manifest.valid_bytes:,} bytes of text held out",
    ]
    if outcome.kept:
        lines.append(f"{outcome.kept} shards were there already, {outcome.made} were made now")
    remarks = {EMPTY: "left out", INVALID_UTF8: "bytes that are none replaced by U+FFFD"}
    for what, remark in remarks.items():
        files = {
            file: numbers[what] for file, numbers in manifest.irregular.items() if what in numbers
        }
        if files:
            worst = sorted(files, key=lambda file: (-files[file], file))[:most]
            listed = ", ".join(f"{file} ({files[file]:,})" for file in worst)
            more = f" and {len(files) - most} more files" if len(files) > most else ""
            lines.append(f"{counts[what]:,} {what}, {remark}: {listed}{more}")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main, define_flags, cached=False)
