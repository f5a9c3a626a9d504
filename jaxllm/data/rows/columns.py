"""Columns of a row as the fields of its format: renamed, or written by a template."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxllm.core.errors import UserError, nearest
from jaxllm.data.config import ColumnsConfig
from jaxllm.data.prepare.readers.base import MISSING, lookup
from jaxllm.data.rows.row import BadRow, Row


class Columns:
    """Applies the section `columns` of a source."""

    def __init__(self, config: ColumnsConfig, field: str):
        """Compiles the templates; `field` is the section's name for the errors.

        Raises:
          UserError: a template that is no jinja2.
        """
        given = dataclasses.asdict(config)
        self._field = field
        self._names = {key: value for key, value in given.items() if value and not _is_code(value)}
        self._templates = {}
        for key, value in given.items():
            if _is_code(value):
                try:
                    self._templates[key] = _environment().from_string(value)
                except jinja2.TemplateError as error:
                    raise UserError(
                        f"{field}.{key}={value!r} is no jinja2 template: {error}."
                    ) from error

    def fields(self, row: Row) -> Mapping[str, Any]:
        """The row's columns, with those of the section under their fields' names.

        Raises:
          BadRow: there is no such column, or a template fails.
        """
        if not self._names and not self._templates:
            return row.columns
        renamed = {}
        for key, name in self._names.items():
            value = lookup(row.columns, name)
            if value is MISSING:
                near = nearest(name, map(str, row.columns))
                raise BadRow(row.place, f"{self._field}.{key}={name!r} is no column of it. {near}")
            renamed[key] = value
        for key, template in self._templates.items():
            try:
                renamed[key] = template.render(row.columns)
            except Exception as error:  # the template's code may raise anything
                raise BadRow(row.place, f"{self._field}.{key} fails: {error}") from error
        return {**row.columns, **renamed}


def _is_code(value: str) -> bool:
    return "{{" in value or "{%" in value


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
