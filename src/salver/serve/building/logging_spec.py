"""From the user's ``LoggingConfig`` to the record that processes get."""

from __future__ import annotations

import logging
from typing import overload

from salver.records import LoggingSpec
from salver.serve.config import LoggingConfig


@overload
def logging_spec(config: LoggingConfig) -> LoggingSpec: ...


@overload
def logging_spec(config: LoggingConfig | None) -> LoggingSpec | None: ...


def logging_spec(config: LoggingConfig | None) -> LoggingSpec | None:
    """``config`` with its level as a number; None, which is "as the instance", stays None.

    An encoding that was not set is empty: text on a terminal, JSON elsewhere.
    """
    if config is None:
        return None
    level = config.log_level
    return LoggingSpec(
        encoding=config.encoding if "encoding" in config.model_fields_set else "",
        log_level=logging.getLevelNamesMapping()[level] if isinstance(level, str) else level,
        logs_dir=config.logs_dir or "",
        enable_access_log=config.enable_access_log,
        additional_attributes=tuple(config.additional_log_standard_attrs),
    )
