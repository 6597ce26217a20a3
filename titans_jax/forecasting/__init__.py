"""Long-term forecasting by the neural memory (paper, section 5.6): from a table to a table.

    forecaster = TitansForecaster(horizon=96).fit(table)
    forecaster.predict()

The network alone is `titans_jax.models.forecaster`. Tables need the extra `forecasting`.
"""

from titans_jax.forecasting.estimator import TitansForecaster
from titans_jax.forecasting.training import TrainingConfig
from titans_jax.models.forecaster import Forecaster, ForecasterConfig

__all__ = ["Forecaster", "ForecasterConfig", "TitansForecaster", "TrainingConfig"]
