"""The paper's 340m model on a TPU pod (paper.py says how).

    python -m experiments.train --config=experiments/configs/titans_340m.py:mag --workdir=gs://BUCKET/RUN ...

MAC without a name after the colon.
"""

from ml_collections import ConfigDict

from experiments.configs.paper import paper_config
from titans_jax.config import Variant


def get_config(variant: Variant | None = None) -> ConfigDict:
    """Returns the config of a variant."""
    return paper_config("340m", variant)
