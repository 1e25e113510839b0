"""Runs the steps on the connection that `database` opened, within its transaction."""

from __future__ import annotations

from alembic import context

from storage.catalog import letter_models, memory_models
from storage.catalog.models import Model

assert memory_models.Agent.metadata is letter_models.Delivery.metadata is Model.metadata  # noqa: S101 - all tables are declared once it is imported

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Model.metadata,
    transactional_ddl=False,
)
context.run_migrations()
