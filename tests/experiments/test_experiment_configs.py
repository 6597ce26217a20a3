"""Every experiment's config, small and at the paper's sizes, is one that its command accepts."""

import importlib

import pytest

from experiments.ablation.run import AblationConfig
from experiments.babilong.task import BabilongConfig
from experiments.efficiency.run import EfficiencyConfig
from experiments.language_modeling.run import LanguageModelingConfig
from experiments.memory_depth.task import MemoryDepthConfig
from experiments.needle_in_a_haystack.task import NeedleConfig
from experiments.training.config import from_config_dict

EXPERIMENTS = {
    "ablation": AblationConfig,
    "babilong": BabilongConfig,
    "efficiency": EfficiencyConfig,
    "language_modeling": LanguageModelingConfig,
    "memory_depth": MemoryDepthConfig,
    "needle_in_a_haystack": NeedleConfig,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("size", ["small", "340m", "760m"])
def test_a_config_is_made_and_read_back(name, size):
    get_config = importlib.import_module(f"experiments.configs.{name}").get_config
    config = from_config_dict(EXPERIMENTS[name], get_config(size))
    if size != "small":
        assert config.model.dim >= 1024
    if name != "efficiency":
        assert len(config.study.seeds) >= (2 if size == "small" else 1)
        assert config.study.steps > 100
