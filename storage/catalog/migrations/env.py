"""Runs the steps on the connection that `database` opened, within its transaction."""

from __future__ import annotations

from alembic import context

from storage.catalog import headstart_models, letter_models, memory_models
from storage.catalog.models import Model

for known in (memory_models.Agent, letter_models.Delivery, headstart_models.Location):
    assert known.metadata is Model.metadata  # noqa: S101 - all tables are declared once it is imported

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Model.metadata,
    transactional_ddl=False,
)
context.run_migrations()
